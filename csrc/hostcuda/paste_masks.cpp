#include "cuda/paste_masks.cuh"

#include "hostcuda/paste_masks.h"

int main(int, char** arguments) {
  using namespace dynamask::cuda;
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  const hostcuda::PasteArguments given(in);
  const PasteMasks& masks = given.masks;

  const int64_t pixels = masks.count * masks.height * masks.width;
  const auto frames = std::make_unique<bool[]>(pixels);
  paste_masks({}, masks, frames.get());
  out.array(std::vector<char>(frames.get(), frames.get() + pixels));

  std::vector<int64_t> pixel_boxes(4 * masks.count), bytes(masks.count);
  launch({}, ceil_divide(masks.count, 64), 64, paste_masks_boxes, masks, pixel_boxes.data(),
         bytes.data());
  const auto ends = hostcuda::running_sum(bytes);
  std::vector<uint8_t> bits(ends.back());
  paste_masks_packed({}, masks, ends.data(), bits.data());
  out.array(pixel_boxes);
  out.array(ends);
  out.array(bits);
}
