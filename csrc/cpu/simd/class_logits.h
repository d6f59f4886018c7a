#pragma once

#include <cstdint>

#include "cpu/simd/variants.h"

namespace dynamask::simd {

template <typename T>
struct ClassLogitsKernel {
  // features of one RoI as [C, P] (planes) or [P, C] (rows), weights [C], out [P]
  void (*planes)(const T* features, const T* weight, T bias, T* out, int64_t c, int64_t p);
  void (*rows)(const T* features, const T* weight, T bias, T* out, int64_t c, int64_t p);
};

struct ClassLogitsKernels {
  ClassLogitsKernel<float> of_float;
  ClassLogitsKernel<double> of_double;
  const ClassLogitsKernel<float>& of(float) const { return of_float; }
  const ClassLogitsKernel<double>& of(double) const { return of_double; }
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::ClassLogitsKernels, class_logits_kernels)
