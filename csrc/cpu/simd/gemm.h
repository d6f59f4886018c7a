// The matrix product for operands that sit in cache: the inner part of a blocked product.

#pragma once

#include <cstdint>

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

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::GemmKernels, gemm_kernels)
