#include "cuda/mask_target_tensors.h"
#include "cuda/mask_targets_rle.cuh"

namespace dynamask::cuda {
namespace {

std::vector<Tensor> of_run_lengths(const Tensor& counts_, const Tensor& starts_,
                                   const Tensor& image_sizes_, const Tensor& boxes,
                                   const Tensor& index, std::vector<int64_t> sizes) {
  const int64_t instances = starts_.size(0) - 1;
  STD_TORCH_CHECK(
      image_sizes_.dim() == 2 && image_sizes_.size(0) == instances && image_sizes_.size(1) == 2,
      "mask_targets: expected ", instances, " image sizes");
  const TargetTensors<float> given(boxes, index, instances, sizes);
  const auto counts = contiguous(to(to_device_of(boxes, counts_), ScalarType::Byte));
  const auto starts = contiguous(to(to_device_of(boxes, starts_), ScalarType::Long));
  const auto image_sizes = contiguous(to(to_device_of(boxes, image_sizes_), ScalarType::Long));
  const int64_t bytes = counts.size(0);
  const auto ends = empty(boxes, {bytes}, ScalarType::Int);
  const auto runs = empty(boxes, {instances}, ScalarType::Int);
  mask_targets_rle(given.device.stream, given.kernel,
                   {counts.const_data_ptr<uint8_t>(), starts.const_data_ptr<int64_t>(),
                    image_sizes.const_data_ptr<int64_t>(), bytes, instances,
                    ends.mutable_data_ptr<int32_t>(), runs.mutable_data_ptr<int32_t>()});
  return given.targets;
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) { m.impl("mask_targets_rle", TORCH_BOX(&of_run_lengths)); }

}  // namespace dynamask::cuda
