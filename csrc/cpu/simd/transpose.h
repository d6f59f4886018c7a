#pragma once

#include <cstdint>

#include "cpu/simd/half.h"
#include "cpu/simd/variants.h"

namespace dynamask::simd {

// Rows of numbers of type In to rows of type Out, rounded to nearest.
template <typename In, typename Out = In>
struct TransposeKernel {
  // out[j * out_row + i] = in[i * in_row + j] for i < rows, j < columns
  void (*run)(const In* in, int64_t in_row, Out* out, int64_t out_row, int64_t rows,
              int64_t columns);
  // out[i * out_row + j] = in[i * in_row + j], likewise
  void (*copy)(const In* in, int64_t in_row, Out* out, int64_t out_row, int64_t rows,
               int64_t columns);
};

struct TransposeKernels {
  TransposeKernel<float> of_float;
  TransposeKernel<double> of_double;
  TransposeKernel<BFloat16> of_bf16;
  TransposeKernel<BFloat16, float> bf16_to_float;
  TransposeKernel<Float16, float> fp16_to_float;
  TransposeKernel<float, BFloat16> float_to_bf16;
  const auto& of(float) const { return of_float; }
  const auto& of(double) const { return of_double; }
  const auto& of(BFloat16) const { return of_bf16; }
  const auto& of(float, float) const { return of_float; }
  const auto& of(double, double) const { return of_double; }
  const auto& of(BFloat16, float) const { return bf16_to_float; }
  const auto& of(Float16, float) const { return fp16_to_float; }
  const auto& of(float, BFloat16) const { return float_to_bf16; }
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::TransposeKernels, transpose_kernels)
