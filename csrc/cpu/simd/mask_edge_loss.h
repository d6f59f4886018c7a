#pragma once

#include <cstdint>

#include "cpu/simd/half.h"
#include "cpu/simd/variants.h"

namespace dynamask::simd {

// Logits and errors are stored as S; T is the type of the sums.
template <typename S, typename T>
struct MaskEdgeLossKernel {
  // The cross entropy summed over `pixels`, and sigmoid(logits) - targets unless `error` is null
  T (*of_bytes)(const S* logits, const uint8_t* targets, S* error, int64_t pixels);
  T (*of_numbers)(const S* logits, const T* targets, S* error, int64_t pixels);
  // out = by * error
  void (*scale)(const S* error, T by, S* out, int64_t pixels);
};

struct MaskEdgeLossKernels {
  MaskEdgeLossKernel<float, float> of_float;
  MaskEdgeLossKernel<double, double> of_double;
  MaskEdgeLossKernel<Float16, float> of_float16;
  MaskEdgeLossKernel<BFloat16, float> of_bfloat16;

  const auto& of(float) const { return of_float; }
  const auto& of(double) const { return of_double; }
  const auto& of(Float16) const { return of_float16; }
  const auto& of(BFloat16) const { return of_bfloat16; }
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::MaskEdgeLossKernels, mask_edge_loss_kernels)
