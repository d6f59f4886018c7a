#include "cpu/simd/gemm.h"

#include "cpu/simd/vec.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

// A block of kRows x 2 vectors of sums stays in registers: 24 of the 32 of AVX-512, 12 of 16.
#if defined(DYNAMASK_VARIANT_avx512)
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif

template <typename T>
constexpr int64_t kPanel = 2 * kLanes<T>;

template <typename T, int Rows>
void block(int64_t depth, const T* a, int64_t a_row, int64_t a_depth, const T* b, int64_t b_depth,
           const T* init, int64_t init_row, T* out, int64_t out_row) {
  Vec<T> sum[Rows][2] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const Vec<T> b0 = load(b), b1 = load(b + kLanes<T>);
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
      const Vec<T> x = a[i * a_row] - Vec<T>{};
      sum[i][0] = fma<T>(x, b0, sum[i][0]);
      sum[i][1] = fma<T>(x, b1, sum[i][1]);
    }
    a += a_depth;
    b += b_depth;
  }
  // init comes last, so that a long sum made of many products is one of short sums
#pragma GCC unroll 12
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < 2; ++j) {
      const auto x = sum[i][j];
      store(out + i * out_row + j * kLanes<T>,
            init ? load(init + i * init_row + j * kLanes<T>) + x : x);
    }
  }
}

template <typename T, int Rows>
void block_of(const Gemm<T>& g, int64_t i, int64_t j) {
  block<T, Rows>(g.depth, g.a + i * g.a_row, g.a_row, g.a_depth, g.b + j / kPanel<T> * g.b_panel,
                 g.b_depth, g.init ? g.init + i * g.init_row + j : nullptr, g.init_row,
                 g.out + i * g.out_row + j, g.out_row);
}

// The rows left over, fewer than kRows.
template <typename T, int Rows>
void last_block(const Gemm<T>& g, int64_t i, int64_t j, int64_t rows) {
  if constexpr (Rows > 0) {
    if (rows == Rows)
      block_of<T, Rows>(g, i, j);
    else
      last_block<T, Rows - 1>(g, i, j, rows);
  }
}

template <typename T>
void gemm(const Gemm<T>& g) {
  for (int64_t j = 0; j < g.columns; j += kPanel<T>) {
    int64_t i = 0;
    for (; i + kRows <= g.rows; i += kRows) block_of<T, kRows>(g, i, j);
    last_block<T, kRows - 1>(g, i, j, g.rows - i);
  }
}

}  // namespace

extern const GemmKernels gemm_kernels;
const GemmKernels gemm_kernels = {{kPanel<float>, &gemm<float>}, {kPanel<double>, &gemm<double>}};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
