#pragma once

#include <cstdint>

#include "cpu/simd/variants.h"

namespace dynamask::simd {

template <typename T>
struct TransposeKernel {
  // out[j * out_row + i] = in[i * in_row + j] for i < rows, j < columns
  void (*run)(const T* in, int64_t in_row, T* out, int64_t out_row, int64_t rows, int64_t columns);
};

struct TransposeKernels {
  TransposeKernel<float> of_float;
  TransposeKernel<double> of_double;
  const TransposeKernel<float>& of(float) const { return of_float; }
  const TransposeKernel<double>& of(double) const { return of_double; }
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::TransposeKernels, transpose_kernels)
