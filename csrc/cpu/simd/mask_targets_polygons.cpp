#include "cpu/simd/mask_targets_polygons.h"

#include "cpu/simd/bits.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

bool add_turns(const float* vertices, int64_t n, const PolygonGrid& grid, FineVertex* placed,
               uint64_t* turns) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    placed[i] = grid.place(vertices[2 * i], vertices[2 * i + 1]);
    sum += (placed[i].x - placed[i].x) + (placed[i].y - placed[i].y);
  }
  if (sum != 0) return false;  // inf - inf and NaN - NaN are NaN
  const int32_t size = grid.size, words = words_per_row(size);
  for (int64_t i = 0; i < n; ++i)
    for_each_turn(placed[i], placed[i + 1 < n ? i + 1 : 0], size, [&](int32_t column, int32_t row) {
      if (row < size) turns[row * words + column / 64] ^= uint64_t(1) << column % 64;
    });
  return true;
}

template <int kWords>
void enclose_words(uint64_t* turns, uint64_t* inside, int32_t size, int32_t words) {
  for (int32_t w = 0; w < words; w += kWords) {
    uint64_t parity[kWords] = {};
    for (int32_t row = 0; row < size; ++row) {
      uint64_t* t = turns + row * words + w;
      uint64_t* in = inside + row * words + w;
      for (int k = 0; k < kWords; ++k) {
        parity[k] ^= t[k];
        in[k] |= parity[k];
        t[k] = 0;
      }
    }
  }
}

void enclose(uint64_t* turns, uint64_t* inside, int32_t size) {
  const int32_t words = words_per_row(size);
  if (words == 2) {
    enclose_words<2>(turns, inside, size, words);
  } else {
    enclose_words<1>(turns, inside, size, words);
  }
}

void unpack(const uint64_t* inside, uint8_t* out, int32_t size) {
  const int32_t words = words_per_row(size);
  const uint8_t* end = out + int64_t(size) * size;
  for (int32_t row = 0; row < size; ++row, out += size)
    for (int32_t w = 0; w < words; ++w) {
      const int32_t n = size - 64 * w < 64 ? size - 64 * w : 64;
      const uint64_t bits = inside[row * words + w];
      // what overruns a row is written again by the next
      if (out + 64 * w + 64 <= end) {
        store_bits_as_bytes<true>(out + 64 * w, bits, n);
      } else {
        store_bits_as_bytes<false>(out + 64 * w, bits, n);
      }
    }
}

}  // namespace

extern const PolygonKernels polygon_kernels;
const PolygonKernels polygon_kernels = {&add_turns, &enclose, &unpack};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
