#include "cuda/mask_target_tensors.h"
#include "cuda/mask_targets.cuh"

namespace dynamask::cuda {
namespace {

std::vector<Tensor> of_bitmaps(const Tensor& masks_, const Tensor& boxes, const Tensor& index,
                               std::vector<int64_t> sizes) {
  const auto masks = contiguous(to_device_of(boxes, masks_));
  const TargetTensors<float> given(boxes, index, masks.size(0), sizes);
  const int64_t height = masks.size(1), width = masks.size(2), rows = masks.size(0) * height;
  const auto packed = empty(masks, {rows, words_of_row(width)}, ScalarType::Int);
  auto* words = static_cast<uint32_t*>(packed.mutable_data_ptr());
  pack_bitmaps(given.device.stream, static_cast<const uint8_t*>(masks.const_data_ptr()), rows,
               width, words);
  mask_targets(given.device.stream, given.kernel, Bitmaps{words, height, width});
  return given.targets;
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) { m.impl("mask_targets", TORCH_BOX(&of_bitmaps)); }

}  // namespace dynamask::cuda
