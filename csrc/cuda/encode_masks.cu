#include "cuda/encode_masks.cuh"
#include "cuda/paste_tensors.h"

namespace dynamask::cuda {
namespace {

// Waits for the device twice: how many runs and how many characters there are.
std::tuple<Tensor, Tensor> encode_masks(const Tensor& values, const Tensor& sizes,
                                        const Tensor& boxes, int64_t height, int64_t width,
                                        double threshold, std::string mode) {
  const PasteTensors given(values, sizes, boxes, height, width, threshold, mode);
  const PasteMasks& masks = given.masks;
  const Stream stream = given.device.stream;
  const auto offsets = torch::stable::new_zeros(boxes, {masks.count + 1}, ScalarType::Long);
  if (masks.count == 0) return {empty(boxes, {0}, ScalarType::Byte), offsets};

  const auto counts =
      torch::stable::new_zeros(boxes, {masks.count * counts_of_mask(width)}, ScalarType::Long);
  encode_masks_count(stream, masks, counts.mutable_data_ptr<int64_t>());
  const auto ends = running_sum(counts);
  const auto places = empty(boxes, {last(ends) + masks.count}, ScalarType::Long);
  const auto lengths = empty(boxes, {places.numel()}, ScalarType::Long);
  encode_masks_places(stream, masks, counts.const_data_ptr<int64_t>(),
                      ends.const_data_ptr<int64_t>(), places.mutable_data_ptr<int64_t>(),
                      lengths.mutable_data_ptr<int64_t>());

  const auto text_ends = running_sum(lengths);
  const auto bytes = empty(boxes, {last(text_ends)}, ScalarType::Byte);
  encode_masks_text(stream, masks, ends.const_data_ptr<int64_t>(), places.const_data_ptr<int64_t>(),
                    lengths.const_data_ptr<int64_t>(), text_ends.const_data_ptr<int64_t>(),
                    bytes.mutable_data_ptr<uint8_t>(), offsets.mutable_data_ptr<int64_t>());
  return {bytes, offsets};
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) { m.impl("encode_masks", TORCH_BOX(&encode_masks)); }

}  // namespace dynamask::cuda
