#include "cpu/simd/transpose.h"

#include "cpu/simd/shuffle.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

// A square block in registers. Each round of interleaving the first half of the vectors with the
// second rotates the bits of (row, column) by one place; after log2(lanes) rounds they are swapped.
template <typename T>
DYNAMASK_INLINE void square(const T* in, int64_t in_row, T* out, int64_t out_row) {
  constexpr int n = kLanes<T>;
  Vec<T> v[n], w[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) v[i] = load(in + i * in_row);
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
  for (int i = 0; i < n; ++i) store(out + i * out_row, v[i]);
}

template <typename T>
void transpose(const T* in, int64_t in_row, T* out, int64_t out_row, int64_t rows,
               int64_t columns) {
  constexpr int64_t n = kLanes<T>;
  const int64_t whole_rows = rows / n * n, whole_columns = columns / n * n;
  for (int64_t i = 0; i < whole_rows; i += n) {
    for (int64_t j = 0; j < whole_columns; j += n)
      square<T>(in + i * in_row + j, in_row, out + j * out_row + i, out_row);
    for (int64_t j = whole_columns; j < columns; ++j)
      for (int64_t k = i; k < i + n; ++k) out[j * out_row + k] = in[k * in_row + j];
  }
  for (int64_t i = whole_rows; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) out[j * out_row + i] = in[i * in_row + j];
}

}  // namespace

extern const TransposeKernels transpose_kernels;
const TransposeKernels transpose_kernels = {{&transpose<float>}, {&transpose<double>}};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
