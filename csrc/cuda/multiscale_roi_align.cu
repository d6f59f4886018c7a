#include "cuda/pyramid_pooling.h"
#include "ops/multiscale_roi_align.h"

namespace dynamask::cuda {
namespace {

PyramidPooling of_pyramid(const std::vector<double>& scales, int64_t sampling_ratio, bool aligned,
                          const std::string& level_rule, double canonical_scale,
                          int64_t canonical_level) {
  return {scales, sampling_ratio, aligned,
          level_rule_of(level_rule, canonical_scale, canonical_level, scales)};
}

Tensor multiscale_roi_align(const std::vector<Tensor>& features, const Tensor& boxes,
                            const std::vector<int64_t>& output_size,
                            const std::vector<double>& scales, int64_t sampling_ratio, bool aligned,
                            const std::string& level_rule, double canonical_scale,
                            int64_t canonical_level) {
  return of_pyramid(scales, sampling_ratio, aligned, level_rule, canonical_scale, canonical_level)
      .forward(features, boxes, output_size)[0];
}

std::vector<Tensor> multiscale_roi_align_sizes(const std::vector<Tensor>& features,
                                               const Tensor& boxes,
                                               const std::vector<int64_t>& output_sizes,
                                               const std::vector<double>& scales,
                                               int64_t sampling_ratio, bool aligned,
                                               const std::string& level_rule,
                                               double canonical_scale, int64_t canonical_level) {
  return of_pyramid(scales, sampling_ratio, aligned, level_rule, canonical_scale, canonical_level)
      .forward(features, boxes, output_sizes);
}

std::vector<Tensor> multiscale_roi_align_backward(const Tensor& grad, const Tensor& boxes,
                                                  int64_t batch, const std::vector<int64_t>& sizes,
                                                  const std::vector<double>& scales,
                                                  int64_t sampling_ratio, bool aligned,
                                                  const std::string& level_rule,
                                                  double canonical_scale, int64_t canonical_level,
                                                  bool channels_last, bool deterministic) {
  return of_pyramid(scales, sampling_ratio, aligned, level_rule, canonical_scale, canonical_level)
      .backward(grad, boxes, batch, sizes, channels_last, deterministic);
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) {
  m.impl("multiscale_roi_align", TORCH_BOX(&multiscale_roi_align));
  m.impl("multiscale_roi_align_sizes", TORCH_BOX(&multiscale_roi_align_sizes));
  m.impl("multiscale_roi_align_backward", TORCH_BOX(&multiscale_roi_align_backward));
}

}  // namespace dynamask::cuda
