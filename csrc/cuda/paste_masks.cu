#include "cuda/paste_masks.cuh"
#include "cuda/paste_tensors.h"

namespace dynamask::cuda {
namespace {

Tensor paste_masks_dense(const Tensor& values, const Tensor& sizes, const Tensor& boxes,
                         int64_t height, int64_t width, double threshold, std::string mode) {
  const PasteTensors given(values, sizes, boxes, height, width, threshold, mode);
  const auto frames =
      torch::stable::new_zeros(boxes, {given.masks.count, height, width}, ScalarType::Bool);
  if (frames.numel() > 0)
    paste_masks(given.device.stream, given.masks, frames.mutable_data_ptr<bool>());
  return frames;
}

// Waits for the device once: how many bytes there are is the shape of the output.
std::tuple<Tensor, Tensor, Tensor> paste_masks_as_bits(const Tensor& values, const Tensor& sizes,
                                                       const Tensor& boxes, int64_t height,
                                                       int64_t width, double threshold,
                                                       std::string mode) {
  const PasteTensors given(values, sizes, boxes, height, width, threshold, mode);
  const int64_t count = given.masks.count;
  const auto pixel_boxes = empty(boxes, {count, 4}, ScalarType::Long);
  const auto offsets = torch::stable::new_zeros(boxes, {count + 1}, ScalarType::Long);
  if (count == 0) return {empty(boxes, {0}, ScalarType::Byte), offsets, pixel_boxes};
  const auto bytes = empty(boxes, {count}, ScalarType::Long);
  launch(given.device.stream, ceil_divide(count, 256), 256, paste_masks_boxes, given.masks,
         pixel_boxes.mutable_data_ptr<int64_t>(), bytes.mutable_data_ptr<int64_t>());
  const auto ends = running_sum(bytes);
  auto after_first = offsets;
  auto tail = torch::stable::narrow(after_first, 0, 1, count);
  torch::stable::copy_(tail, ends);
  const auto bits = empty(boxes, {last(ends)}, ScalarType::Byte);
  if (bits.numel() > 0)
    paste_masks_packed(given.device.stream, given.masks, ends.const_data_ptr<int64_t>(),
                       bits.mutable_data_ptr<uint8_t>());
  return {bits, offsets, pixel_boxes};
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) {
  m.impl("paste_masks", TORCH_BOX(&paste_masks_dense));
  m.impl("paste_masks_packed", TORCH_BOX(&paste_masks_as_bits));
}

}  // namespace dynamask::cuda
