// The kernels that paste masks as frames or as packed bits.

#pragma once

#include "cuda/pasted_mask.h"

namespace dynamask::cuda {

constexpr int kPasteThreads = 128;

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

// Some blocks own one mask, a thread every so many-th byte of its box: eight pixels. Bound by
// arithmetic.
static __global__ void paste_masks_packed_kernel(PasteMasks masks, const int64_t* ends,
                                                 uint8_t* bits) {
  const int64_t n = blockIdx.x;
  const PastedMask mask(masks, n);
  const PasteBox& box = mask.place;
  const int64_t row_bytes = (box.x.end - box.x.begin + 7) / 8;
  const int64_t bytes = row_bytes * (box.y.end - box.y.begin);
  uint8_t* out = bits + ends[n] - bytes;
  for (int64_t i = blockIdx.y * blockDim.x + threadIdx.x; i < bytes; i += gridDim.y * blockDim.x) {
    const PasteSample row = mask.at_y(box.y.begin + static_cast<int32_t>(i / row_bytes));
    const int32_t first = box.x.begin + static_cast<int32_t>(8 * (i % row_bytes));
    uint8_t packed = 0;
    for (int32_t k = 0; k < 8 && first + k < box.x.end; ++k)
      packed |= mask.covers(mask.at_x(first + k), row) << k;
    out[i] = packed;
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
