// The matrix product for operands that sit in cache: the inner part of a blocked product.

#pragma once

#include <cstdint>

#include "cpu/simd/half.h"
#include "cpu/simd/variants.h"

namespace dynamask::simd {

// out = init + a b. Columns are handled in whole panels: b, init and out must be readable, and out
// writable, up to the next multiple of `GemmKernel::panel`.
template <typename T>
struct Gemm {
  int64_t rows, columns, depth;
  // a[i, k] = a[i * a_row + k * a_depth]
  const T* a;
  int64_t a_row, a_depth;
  // b[k, j] = b[(j / panel) * b_panel + k * b_depth + j % panel]
  const T* b;
  int64_t b_panel, b_depth;
  // init[i, j] = init[i * init_row + j]; nullptr is zero. May be out itself.
  const T* init;
  int64_t init_row;
  T* out;
  int64_t out_row;
};

template <typename T>
struct GemmKernel {
  int64_t panel;
  void (*run)(const Gemm<T>& g);
};

struct GemmKernels {
  GemmKernel<float> of_float;
  GemmKernel<double> of_double;
  const GemmKernel<float>& of(float) const { return of_float; }
  const GemmKernel<double>& of(double) const { return of_double; }
};

// out = init + a b of bf16 matrices, products summed in fp32: as Gemm<float> but for the order of
// a and b in memory. Depth goes in pairs: where it is odd, a and b hold one more column and row of
// zeros, and count it.
struct Bf16Gemm {
  int64_t rows, columns, depth;  // depth even
  // a[i, k] = a[i * a_row + k]
  const BFloat16* a;
  int64_t a_row;
  // b[k, j] = b[(j / panel) * b_panel + (k / 2) * 2 * panel + (j % panel) * 2 + k % 2]: the rows of
  // a panel as those of Gemm, but two of them with their numbers in turn. From row k, even, on, b
  // is at b + k * panel.
  const BFloat16* b;
  int64_t b_panel;
  // as in Gemm<float>
  const float* init;
  int64_t init_row;
  float* out;
  int64_t out_row;
};

struct Bf16GemmKernel {
  int64_t panel;
  void (*run)(const Bf16Gemm& g);
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::GemmKernels, gemm_kernels)
DYNAMASK_DECLARE_BF16(dynamask::simd::Bf16GemmKernel, bf16_gemm_kernel)
