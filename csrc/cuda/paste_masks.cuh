// One pasted pixel, and the kernels that paste masks as frames or as packed bits.

#pragma once

#include "cuda/launch.h"
#include "ops/paste_masks.h"

namespace dynamask::cuda {

// Ragged masks and their boxes; all arrays are on the device.
struct PasteMasks {
  const float* values;   // all masks, one after the other
  const int64_t* sizes;  // [N]
  const int64_t* ends;   // [N]: of each mask in values
  const float* boxes;    // [N, 4]
  int64_t numel;         // of values
  int64_t count;
  int32_t height, width;
  float threshold;
  PasteMode mode;
};

// What the pixels of one mask share.
struct PastedMask {
  const float* values;
  int32_t size;
  float threshold;
  PasteBox place;

  // A mask that does not lie within the values pastes nothing.
  DYNAMASK_HOST_DEVICE PastedMask(const PasteMasks& masks, int64_t n) : threshold(masks.threshold) {
    const int64_t side = masks.sizes[n], end = masks.ends[n], start = end - side * side;
    const bool fits = 0 < side && side < (int64_t{1} << 30) && 0 <= start && end <= masks.numel;
    size = fits ? static_cast<int32_t>(side) : 0;
    values = masks.values + (fits ? start : 0);
    place = paste_box(masks.mode, masks.boxes + 4 * n, size, masks.height, masks.width);
    if (place.empty()) place = PasteBox{};
  }

  DYNAMASK_HOST_DEVICE PasteSample at_x(int32_t x) const { return sample(place.x, x); }
  DYNAMASK_HOST_DEVICE PasteSample at_y(int32_t y) const { return sample(place.y, y); }

  // Whether the pixel at those places is foreground.
  DYNAMASK_HOST_DEVICE bool covers(const PasteSample& x, const PasteSample& y) const {
    if (x.cell < 0 || y.cell < 0) return false;
    const float value = paste_value(place.order, ringed(y.cell, x.cell), ringed(y.cell, x.cell + 1),
                                    ringed(y.cell + 1, x.cell), ringed(y.cell + 1, x.cell + 1),
                                    x.before, x.after, y.before, y.after);
    return value >= threshold;
  }

 private:
  DYNAMASK_HOST_DEVICE PasteSample sample(const PasteAxis& axis, int32_t pixel) const {
    return axis.grid ? grid_sample_at(axis, pixel, size) : upsample_at(axis, pixel, size);
  }
  // A sample of the mask with its ring of zeros.
  DYNAMASK_HOST_DEVICE float ringed(int32_t y, int32_t x) const {
    const bool inside = 1 <= y && y <= size && 1 <= x && x <= size;
    return inside ? values[static_cast<int64_t>(y - 1) * size + x - 1] : 0.f;
  }
};

constexpr int kPasteThreads = 128;
constexpr int kBlocksPerMask = 32;

// A thread owns a mask: how many values it has. Bound by latency.
static __global__ void mask_values(const int64_t* sizes, int64_t count, int64_t* values) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n < count) values[n] = sizes[n] * sizes[n];
}

// A block owns some rows of one mask's box, a thread every 128th pixel of them. Bound by the writes
// of the box; the frame around it is zero already.
static __global__ void paste_masks_kernel(PasteMasks masks, bool* frames) {
  const int64_t n = blockIdx.x;
  const PastedMask mask(masks, n);
  const PasteBox& box = mask.place;
  for (int32_t y = box.y.begin + blockIdx.y; y < box.y.end; y += gridDim.y) {
    const PasteSample row = mask.at_y(y);
    bool* out = frames + (n * masks.height + y) * masks.width;
    for (int32_t x = box.x.begin + threadIdx.x; x < box.x.end; x += blockDim.x)
      out[x] = mask.covers(mask.at_x(x), row);
  }
}

// A thread owns a mask: which pixels it may cover, and in how many bytes. Bound by latency.
static __global__ void paste_masks_boxes(PasteMasks masks, int64_t* pixel_boxes, int64_t* bytes) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= masks.count) return;
  const PasteBox box = PastedMask(masks, n).place;
  int64_t* out = pixel_boxes + 4 * n;
  out[0] = box.x.begin, out[1] = box.y.begin, out[2] = box.x.end, out[3] = box.y.end;
  bytes[n] = (out[2] - out[0] + 7) / 8 * (out[3] - out[1]);
}

// A block owns some rows of one mask's box, a thread every 128th byte of them: eight pixels. Bound
// by arithmetic.
static __global__ void paste_masks_packed_kernel(PasteMasks masks, const int64_t* ends,
                                                 uint8_t* bits) {
  const int64_t n = blockIdx.x;
  const PastedMask mask(masks, n);
  const PasteBox& box = mask.place;
  const int64_t row_bytes = (box.x.end - box.x.begin + 7) / 8;
  uint8_t* out = bits + ends[n] - row_bytes * (box.y.end - box.y.begin);
  for (int32_t y = box.y.begin + blockIdx.y; y < box.y.end; y += gridDim.y) {
    const PasteSample row = mask.at_y(y);
    for (int64_t byte = threadIdx.x; byte < row_bytes; byte += blockDim.x) {
      const int32_t first = box.x.begin + static_cast<int32_t>(8 * byte);
      uint8_t packed = 0;
      for (int32_t i = 0; i < 8 && first + i < box.x.end; ++i)
        packed |= mask.covers(mask.at_x(first + i), row) << i;
      out[(y - box.y.begin) * row_bytes + byte] = packed;
    }
  }
}

// Frames start as zeros.
inline void paste_masks(Stream stream, const PasteMasks& masks, bool* frames) {
  const dim3 grid(masks.count, kBlocksPerMask);
  launch(stream, grid, kPasteThreads, paste_masks_kernel, masks, frames);
}

inline void paste_masks_packed(Stream stream, const PasteMasks& masks, const int64_t* ends,
                               uint8_t* bits) {
  const dim3 grid(masks.count, kBlocksPerMask);
  launch(stream, grid, kPasteThreads, paste_masks_packed_kernel, masks, ends, bits);
}

}  // namespace dynamask::cuda
