#include "cpu/simd/edge_targets.h"

#include "cpu/simd/bits.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

// Scratch: the mask as bytes, with room to read and write whole vectors at its end, then its rows
// as bits: a row of zeros, the H rows, another row of zeros, and the edges of one row. A row has
// `words` words with a word of zeros on either side.
constexpr int64_t kRoom = 64;

int64_t words_of(int64_t width) { return (width + 63) / 64; }

int64_t bytes_of_plane(int64_t height, int64_t width) {
  return (height * width + kRoom + 7) / 8 * 8;
}

int64_t scratch_bytes(int64_t height, int64_t width) {
  return bytes_of_plane(height, width) + (height + 3) * (words_of(width) + 2) * 8;
}

// Row [words] as bits; what is to the right of `width` is zero.
void pack(const uint8_t* bytes, uint64_t* row, int64_t width) {
  for (int64_t x = 0; x < width; x += 64) {
    const int64_t n = width - x < 64 ? width - x : 64;
    const uint64_t inside = n < 64 ? (uint64_t(1) << n) - 1 : ~uint64_t(0);
    row[x / 64] = nonzero_bits(bytes + x, 64) & inside;
  }
}

// `row` and its neighbours above and below are `stride` words apart.
void find_edges(const uint64_t* row, int64_t stride, int64_t words, uint64_t* edges) {
  const auto column = [&](int64_t w) { return row[w - stride] & row[w] & row[w + stride]; };
  for (int64_t w = 0; w < words; ++w) {
    const uint64_t here = column(w);
    const uint64_t left = here << 1 | column(w - 1) >> 63;
    const uint64_t right = here >> 1 | column(w + 1) << 63;
    edges[w] = row[w] & ~(left & here & right);
  }
}

// The bits of even columns, each spread over itself and the next
uint64_t spread_even(uint64_t bits) {
  const uint64_t even = bits & 0x5555555555555555;
  return even | even << 1;
}

void edges_of_bytes(uint8_t* bytes, uint64_t* rows, int64_t height, int64_t width,
                    bool with_coarse) {
  const int64_t words = words_of(width), stride = words + 2;
  __builtin_memset(rows, 0, (height + 3) * stride * sizeof(uint64_t));
  for (int64_t y = 0; y < height; ++y) pack(bytes + y * width, rows + (y + 1) * stride + 1, width);
  uint64_t* edges = rows + (height + 2) * stride + 1;
  uint64_t* coarse = rows + 1;  // the row above the mask is free once row 0 is done
  for (int64_t y = 0; y < height; ++y) {
    find_edges(rows + (y + 1) * stride + 1, stride, words, edges);
    for (int64_t w = 0; w < words; ++w) {
      if (with_coarse) {
        if (y % 2 == 0) coarse[w] = spread_even(edges[w]);
        edges[w] |= coarse[w];
      }
      const int64_t n = width - 64 * w < 64 ? width - 64 * w : 64;
      store_bits_as_bytes<true>(bytes + y * width + 64 * w, edges[w], n);
    }
  }
}

template <typename T>
void edge_targets(const void* mask, void* out_, int64_t height, int64_t width, MaskBits bits,
                  bool with_coarse, uint8_t* bytes) {
  const T* in = static_cast<const T*>(mask);
  T* out = static_cast<T*>(out_);
  const int64_t area = height * width;
  const T magnitude = T(bits.magnitude), one = T(bits.one);
  for (int64_t i = 0; i < area; ++i) bytes[i] = (in[i] & magnitude) != 0;
  auto* rows = reinterpret_cast<uint64_t*>(bytes + bytes_of_plane(height, width));
  edges_of_bytes(bytes, rows, height, width, with_coarse);
  for (int64_t i = 0; i < area; ++i) out[i] = bytes[i] ? one : T(0);
}

}  // namespace

extern const EdgeKernels edge_kernels;
const EdgeKernels edge_kernels = {&edge_targets<uint8_t>, &edge_targets<uint16_t>,
                                  &edge_targets<uint32_t>, &edge_targets<uint64_t>, &scratch_bytes};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
