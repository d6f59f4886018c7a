#include "cuda/pyramid_pooling.h"
#include "ops/roi_align.h"

namespace dynamask::cuda {
namespace {

PyramidPooling of_one_map(double scale, int64_t sampling_ratio, bool aligned) {
  return {{scale}, sampling_ratio, aligned, LevelRule{false, 1, 0, 0, 1}};
}

Tensor roi_align(const Tensor& input, const Tensor& boxes, const std::vector<int64_t>& output_size,
                 double spatial_scale, int64_t sampling_ratio, bool aligned) {
  return of_one_map(spatial_scale, sampling_ratio, aligned).forward({input}, boxes, output_size)[0];
}

Tensor roi_align_backward(const Tensor& grad, const Tensor& boxes,
                          const std::vector<int64_t>& input_size, double spatial_scale,
                          int64_t sampling_ratio, bool aligned, bool channels_last,
                          bool deterministic) {
  return of_one_map(spatial_scale, sampling_ratio, aligned)
      .backward(grad, boxes, input_size[0], {input_size[2], input_size[3]}, channels_last,
                deterministic)[0];
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) {
  m.impl("roi_align", TORCH_BOX(&roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&roi_align_backward));
}

}  // namespace dynamask::cuda
