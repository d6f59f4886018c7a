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

  auto pixel_boxes = hostcuda::garbage<int64_t>(4 * masks.count);
  auto bytes = hostcuda::garbage<int64_t>(masks.count);
  launch({}, ceil_divide(masks.count, 64), 64, paste_masks_boxes, masks, pixel_boxes.data(),
         bytes.data());
  const auto ends = hostcuda::running_sum(bytes);
  auto bits = hostcuda::garbage<uint8_t>(ends.back());
  paste_masks_packed({}, masks, ends.data(), bits.data());
  out.array(pixel_boxes);
  out.array(ends);
  out.array(bits);
}
