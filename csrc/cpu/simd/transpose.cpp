#include "cpu/simd/transpose.h"

#include "cpu/simd/shuffle.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

// A square block in registers, of which the first `rows` and `columns` are there. Each round of
// interleaving the first half of the vectors with the second rotates the bits of (row, column) by
// one place; after log2(lanes) rounds they are swapped.
template <bool kWhole, typename In, typename Out>
DYNAMASK_INLINE void square(const In* in, int64_t in_row, Out* out, int64_t out_row, int64_t rows,
                            int64_t columns) {
  using T = Wide<In>;
  constexpr int n = kLanes<T>;
  Vec<T> v[n] = {}, w[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    if (kWhole)
      v[i] = load_wide(in + i * in_row);
    else if (i < rows)
      v[i] = load_wide_partial<T>(in + i * in_row, columns);
  }
#pragma GCC unroll 4
  for (int round = 1; round < n; round *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i) {
      w[2 * i] = interleave_low<T>(v[i], v[i + n / 2]);
      w[2 * i + 1] = interleave_high<T>(v[i], v[i + n / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) v[i] = w[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    if (kWhole)
      store_narrow(out + i * out_row, v[i]);
    else if (i < columns)
      store_narrow_partial<T>(out + i * out_row, v[i], rows);
  }
}

template <typename In, typename Out>
void transpose(const In* in, int64_t in_row, Out* out, int64_t out_row, int64_t rows,
               int64_t columns) {
  constexpr int64_t n = kLanes<Wide<In>>;
  for (int64_t i = 0; i < rows; i += n)
    for (int64_t j = 0; j < columns; j += n) {
      const In* from = in + i * in_row + j;
      Out* to = out + j * out_row + i;
      if (i + n <= rows && j + n <= columns)
        square<true>(from, in_row, to, out_row, n, n);
      else
        square<false>(from, in_row, to, out_row, rows - i < n ? rows - i : n,
                      columns - j < n ? columns - j : n);
    }
}

template <typename In, typename Out>
void copy(const In* in, int64_t in_row, Out* out, int64_t out_row, int64_t rows, int64_t columns) {
  using T = Wide<In>;
  constexpr int64_t n = kLanes<T>;
  for (int64_t i = 0; i < rows; ++i, in += in_row, out += out_row) {
    int64_t j = 0;
    for (; j + n <= columns; j += n) store_narrow(out + j, load_wide(in + j));
    if (j < columns)
      store_narrow_partial<T>(out + j, load_wide_partial<T>(in + j, columns - j), columns - j);
  }
}

template <typename In, typename Out = In>
constexpr TransposeKernel<In, Out> kKernel = {&transpose<In, Out>, &copy<In, Out>};

}  // namespace

extern const TransposeKernels transpose_kernels;
const TransposeKernels transpose_kernels = {kKernel<float>,          kKernel<double>,
                                            kKernel<BFloat16>,       kKernel<BFloat16, float>,
                                            kKernel<Float16, float>, kKernel<float, BFloat16>};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
