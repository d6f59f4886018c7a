#include "ops/paste_masks.h"

#include <cstring>

#include "cpu/paste_masks.h"

namespace dynamask {
namespace {

Tensor paste_masks(const Tensor& values, const Tensor& sizes, const Tensor& boxes, int64_t height,
                   int64_t width, double threshold, std::string mode_name) {
  const auto mode = paste_mode(mode_name);
  const PasteMasks masks(values, sizes, boxes);
  auto out = empty(boxes, {masks.count(), height, width}, ScalarType::Bool);
  if (out.numel() == 0) return out;
  auto* frames = static_cast<uint8_t*>(out.mutable_data_ptr());
  parallel_for(0, masks.count(), 1, [&](int64_t begin, int64_t end) {
    MaskPaster paster(mode, threshold, height, width, /*columns=*/false);
    for (int64_t n = begin; n < end; ++n) {
      auto* frame = frames + n * height * width;
      std::memset(frame, 0, height * width);
      paster.paste(masks.mask(n), masks.size[n], masks.box(n),
                   [&](int64_t y, int64_t x, const int32_t* at, int64_t count) {
                     auto* row = frame + y * width + x;
                     for (int64_t i = 0; i < count; i += 2)
                       std::memset(row + at[i], 1, at[i + 1] - at[i]);
                   });
    }
  });
  return out;
}

// Sets the bits [begin, end) of a row, the lowest bit of a byte first.
void set_bits(uint8_t* row, int64_t begin, int64_t end) {
  const int64_t first = begin / 8, last = (end - 1) / 8;
  const auto head = static_cast<uint8_t>(0xff << begin % 8);
  const auto tail = static_cast<uint8_t>(0xff >> (7 - (end - 1) % 8));
  if (first == last) {
    row[first] |= head & tail;
    return;
  }
  row[first] |= head;
  std::memset(row + first + 1, 0xff, last - first - 1);
  row[last] |= tail;
}

std::tuple<Tensor, Tensor, Tensor> paste_masks_packed(const Tensor& values, const Tensor& sizes,
                                                      const Tensor& boxes, int64_t height,
                                                      int64_t width, double threshold,
                                                      std::string mode_name) {
  const auto mode = paste_mode(mode_name);
  const PasteMasks masks(values, sizes, boxes);
  auto pixel_boxes = empty(boxes, {masks.count(), 4}, ScalarType::Long);
  auto offsets = empty(boxes, {masks.count() + 1}, ScalarType::Long);
  auto* pixel_box = pixel_boxes.mutable_data_ptr<int64_t>();
  auto* offset = offsets.mutable_data_ptr<int64_t>();
  const auto row_bytes = [&](int64_t n) {
    return (pixel_box[4 * n + 2] - pixel_box[4 * n] + 7) / 8;
  };
  offset[0] = 0;
  for (int64_t n = 0; n < masks.count(); ++n) {
    auto place = paste_box(mode, masks.box(n), masks.size[n], static_cast<int32_t>(height),
                           static_cast<int32_t>(width));
    if (place.empty()) place = PasteBox{};
    const int64_t corners[] = {place.x.begin, place.y.begin, place.x.end, place.y.end};
    std::memcpy(pixel_box + 4 * n, corners, sizeof(corners));
    offset[n + 1] = offset[n] + row_bytes(n) * (corners[3] - corners[1]);
  }
  auto bits = empty(boxes, {offset[masks.count()]}, ScalarType::Byte);
  if (bits.numel() == 0) return {bits, offsets, pixel_boxes};
  auto* out = bits.mutable_data_ptr<uint8_t>();
  parallel_for(0, masks.count(), 1, [&](int64_t begin, int64_t end) {
    MaskPaster paster(mode, threshold, height, width, /*columns=*/false);
    for (int64_t n = begin; n < end; ++n) {
      const int64_t left = pixel_box[4 * n], top = pixel_box[4 * n + 1];
      std::memset(out + offset[n], 0, offset[n + 1] - offset[n]);
      paster.paste(masks.mask(n), masks.size[n], masks.box(n),
                   [&](int64_t y, int64_t x, const int32_t* at, int64_t count) {
                     auto* row = out + offset[n] + (y - top) * row_bytes(n);
                     for (int64_t i = 0; i < count; i += 2)
                       set_bits(row, x - left + at[i], x - left + at[i + 1]);
                   });
    }
  });
  return {bits, offsets, pixel_boxes};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) {
  m.impl("paste_masks", TORCH_BOX(&paste_masks));
  m.impl("paste_masks_packed", TORCH_BOX(&paste_masks_packed));
}

}  // namespace dynamask
