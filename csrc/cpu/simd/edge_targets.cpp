#include "cpu/simd/edge_targets.h"

#include "cpu/simd/vec.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

constexpr int64_t kStep = kLanes<uint8_t>;

// The mask as bytes 0 or 255 with a border of zeros; rows are long enough for whole vectors.
int64_t padded_width(int64_t width) { return (width + kStep - 1) / kStep * kStep + 2; }

int64_t scratch_bytes(int64_t height, int64_t width) {
  return (height + 2 + 2) * padded_width(width);
}

template <typename T>
void read_row(const T* in, uint8_t* row, int64_t width, int64_t padded, T magnitude) {
  row[0] = 0;
  for (int64_t x = 0; x < width; ++x) row[x + 1] = (in[x] & magnitude) ? 255 : 0;
  __builtin_memset(row + width + 1, 0, padded - width - 1);
}

template <typename T>
void write_row(const uint8_t* edges, T* out, int64_t width, T one) {
  for (int64_t x = 0; x < width; ++x) out[x] = edges[x] ? one : 0;
}

// `row` points at the first element inside the border
void find_edges(const uint8_t* row, int64_t padded, int64_t width, uint8_t* edges) {
  for (int64_t x = 0; x < width; x += kStep) {
    Vec<uint8_t> inner = broadcast<uint8_t>(255);
    for (int64_t dy = -padded; dy <= padded; dy += padded)
      for (int64_t dx = -1; dx <= 1; ++dx) inner &= load(row + dy + dx + x);
    store(edges + x, load(row + x) & ~inner);
  }
}

// row |= the even elements of `even`, each spread over itself and the next
void add_coarse(const uint8_t* even, uint8_t* row, int64_t width) {
  for (int64_t x = 0; x < width; x += kStep) {
    const auto pairs = (Vec<uint16_t>)load(even + x) & broadcast<uint16_t>(255);
    store(row + x, load(row + x) | (Vec<uint8_t>)(pairs | pairs << 8));
  }
}

template <typename T>
void edge_targets(const void* mask, void* out_, int64_t height, int64_t width, MaskBits bits,
                  bool with_coarse, uint8_t* scratch) {
  const T* in = static_cast<const T*>(mask);
  T* out = static_cast<T*>(out_);
  const int64_t padded = padded_width(width);
  uint8_t* rows = scratch + 2 * padded;
  __builtin_memset(rows, 0, padded);
  for (int64_t y = 0; y < height; ++y)
    read_row(in + y * width, rows + (y + 1) * padded, width, padded, T(bits.magnitude));
  __builtin_memset(rows + (height + 1) * padded, 0, padded);
  for (int64_t y = 0; y < height; ++y) {
    uint8_t* even = scratch;
    uint8_t* edges = y % 2 ? scratch + padded : even;
    find_edges(rows + (y + 1) * padded + 1, padded, width, edges);
    if (with_coarse) {
      if (y % 2 == 0) add_coarse(even, even, width);
      if (y % 2 == 1) add_coarse(even, edges, width);
    }
    write_row(edges, out + y * width, width, T(bits.one));
  }
}

}  // namespace

extern const EdgeKernels edge_kernels;
const EdgeKernels edge_kernels = {&edge_targets<uint8_t>, &edge_targets<uint16_t>,
                                  &edge_targets<uint32_t>, &edge_targets<uint64_t>, &scratch_bytes};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
