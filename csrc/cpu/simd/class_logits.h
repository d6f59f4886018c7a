#pragma once

#include <cstdint>

#include "cpu/simd/half.h"
#include "cpu/simd/variants.h"

namespace dynamask::simd {

// Features and logits are stored as S; T is the type of the sums.
template <typename S, typename T>
struct ClassLogitsKernel {
  // features of one RoI as [C, P] (planes) or [P, C] (rows), weights [C], out [P]
  void (*planes)(const S* features, const T* weight, T bias, S* out, int64_t c, int64_t p);
  void (*rows)(const S* features, const T* weight, T bias, S* out, int64_t c, int64_t p);
};

struct ClassLogitsKernels {
  ClassLogitsKernel<float, float> of_float;
  ClassLogitsKernel<double, double> of_double;
  ClassLogitsKernel<Float16, float> of_float16;
  ClassLogitsKernel<BFloat16, float> of_bfloat16;
  const auto& of(float) const { return of_float; }
  const auto& of(double) const { return of_double; }
  const auto& of(Float16) const { return of_float16; }
  const auto& of(BFloat16) const { return of_bfloat16; }
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::ClassLogitsKernels, class_logits_kernels)
