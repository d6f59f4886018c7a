// Bitmaps on the device: they are packed once per call, a bit per pixel, and the kernel of
// target_bins.h reads those bits.

#pragma once

#include "cuda/target_bins.h"

namespace dynamask::cuda {

constexpr int kWordsAtOnce = 8;

// Words that hold a row of pixels: column c is bit c % 32 of word c / 32.
DYNAMASK_HOST_DEVICE int64_t words_of_row(int64_t width) { return (width + 31) / 32; }

// A warp owns every so many-th row, a lane one pixel of each word, the loads of some words under
// way at once. Bound by memory: the bitmaps are read once, however many boxes lie on them.
static __global__ void pack_bitmaps_kernel(const uint8_t* pixels, int64_t rows, int64_t width,
                                           uint32_t* words) {
  const int64_t per_row = words_of_row(width), warps = gridDim.x * (blockDim.x / 32);
  const int lane = threadIdx.x % 32;
  for (int64_t row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; row < rows; row += warps) {
    for (int64_t first = 0; first < per_row; first += kWordsAtOnce) {
      bool on[kWordsAtOnce];
#pragma unroll
      for (int k = 0; k < kWordsAtOnce; ++k) {
        const int64_t column = (first + k) * 32 + lane;
        on[k] = column < width && pixels[row * width + column] != 0;
      }
      unsigned word = 0;  // lane k has word k
#pragma unroll
      for (int k = 0; k < kWordsAtOnce; ++k) {
        const unsigned of_all = __ballot_sync(~0u, on[k]);
        if (lane == k) word = of_all;
      }
      if (lane < kWordsAtOnce && first + lane < per_row) words[row * per_row + first + lane] = word;
    }
  }
}

// Rows of pixels, of which what is not 0 is foreground, a bit per pixel.
inline void pack_bitmaps(Stream stream, const uint8_t* pixels, int64_t rows, int64_t width,
                         uint32_t* words) {
  const int64_t blocks = width > 0 ? ceil_divide(rows, kTargetThreads / 32) : 0;
  if (blocks > 0)
    launch(stream, blocks < 65536 ? blocks : 65536, kTargetThreads, pack_bitmaps_kernel, pixels,
           rows, width, words);
}

// A bitmap as lines, which are its rows.
struct BitmapLines {
  static constexpr bool kAreColumns = false;
  const uint32_t* words;  // [H, words_of_row]
  int64_t height, width;

  struct Line {
    const uint32_t* words;
    DYNAMASK_HOST_DEVICE float at(int64_t place) const {
      return words[place / 32] >> (place % 32) & 1;
    }
    // Of at most 32 places of the line, and of what comes after them.
    DYNAMASK_HOST_DEVICE uint32_t bits(int32_t place, int count) const {
      const uint32_t *word = words + place / 32, shift = place % 32;
      return word[0] >> shift | (shift + count > 32 ? word[1] << (32 - shift) : 0);
    }
  };
  DYNAMASK_HOST_DEVICE Line line(int64_t row) const { return {words + row * words_of_row(width)}; }
};

struct Bitmaps {
  const uint32_t* words;  // [G, H, words_of_row]
  int64_t height, width;

  DYNAMASK_HOST_DEVICE BitmapLines of(int64_t g) const {
    return {words + g * height * words_of_row(width), height, width};
  }
};

}  // namespace dynamask::cuda
