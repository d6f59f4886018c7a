#include "cpu/simd/gemm.h"
#include "cpu/simd/vec.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

// As in gemm.cpp: 12 x 2 vectors of sums, and the rest of the registers for a and b.
constexpr int kRows = 12;
constexpr int64_t kPanel = 2 * kLanes<float>;

DYNAMASK_INLINE __m512bh load_pairs(const BFloat16* p) { return (__m512bh)_mm512_loadu_si512(p); }

DYNAMASK_INLINE __m512bh broadcast_pair(const BFloat16* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof(pair));
  return (__m512bh)_mm512_set1_epi32(pair);
}

template <int Rows>
void block(int64_t depth, const BFloat16* a, int64_t a_row, const BFloat16* b, const float* init,
           int64_t init_row, float* out, int64_t out_row) {
  Vec<float> sum[Rows][2] = {};
  for (int64_t k = 0; k < depth; k += 2) {
    const __m512bh b0 = load_pairs(b), b1 = load_pairs(b + kPanel);
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
      const __m512bh x = broadcast_pair(a + i * a_row);
      sum[i][0] = (Vec<float>)_mm512_dpbf16_ps((__m512)sum[i][0], x, b0);
      sum[i][1] = (Vec<float>)_mm512_dpbf16_ps((__m512)sum[i][1], x, b1);
    }
    a += 2;
    b += 2 * kPanel;
  }
#pragma GCC unroll 12
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < 2; ++j) {
      const auto x = sum[i][j];
      store(out + i * out_row + j * kLanes<float>,
            init ? load(init + i * init_row + j * kLanes<float>) + x : x);
    }
  }
}

template <int Rows = kRows>
void block_of(const Bf16Gemm& g, int64_t i, int64_t rows, int64_t j) {
  if constexpr (Rows > 0) {
    if (rows < Rows) return block_of<Rows - 1>(g, i, rows, j);
    block<Rows>(g.depth, g.a + i * g.a_row, g.a_row, g.b + j / kPanel * g.b_panel,
                g.init ? g.init + i * g.init_row + j : nullptr, g.init_row,
                g.out + i * g.out_row + j, g.out_row);
  }
}

void gemm(const Bf16Gemm& g) {
  const int64_t blocks = (g.rows + kRows - 1) / kRows;
  for (int64_t j = 0; j < g.columns; j += kPanel)
    for (int64_t n = 0; n < blocks; ++n) {
      const int64_t i = n * g.rows / blocks;
      block_of(g, i, (n + 1) * g.rows / blocks - i, j);
    }
}

}  // namespace

extern const Bf16GemmKernel bf16_gemm_kernel;
const Bf16GemmKernel bf16_gemm_kernel = {kPanel, &gemm};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
