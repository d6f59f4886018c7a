#include "cuda/mask_target_tensors.h"
#include "cuda/mask_targets.cuh"

namespace dynamask::cuda {
namespace {

std::vector<Tensor> of_bitmaps(const Tensor& masks_, const Tensor& boxes, const Tensor& index,
                               std::vector<int64_t> sizes) {
  const auto masks = contiguous(to_device_of(boxes, masks_));
  const TargetTensors<float> given(boxes, index, masks.size(0), sizes);
  mask_targets(
      given.device.stream, given.kernel,
      Bitmaps{static_cast<const uint8_t*>(masks.const_data_ptr()), masks.size(1), masks.size(2)});
  return given.targets;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CUDA, m) { m.impl("mask_targets", TORCH_BOX(&of_bitmaps)); }

}  // namespace dynamask::cuda
