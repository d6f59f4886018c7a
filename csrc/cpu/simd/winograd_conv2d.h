#pragma once

#include <cstdint>

#include "cpu/simd/half.h"
#include "cpu/simd/variants.h"

namespace dynamask::simd {

// Pixels of type S; points and sums of the type one computes in.
template <typename S>
struct WinogradConv2dKernel {
  using T = Wide<S>;
  // 6 x 6 pixels [C] to their values at the 36 points, each [C rounded up to a vector].
  void (*to_points)(const S* patch, int64_t row_stride, int64_t pixel_stride, int64_t channels,
                    T* points, int64_t point_stride);
  // Sums at the 36 points and a bias, both readable up to a whole vector, to 4 x 4 pixels [C].
  void (*to_pixels)(const T* points, int64_t point_stride, const T* bias, bool relu,
                    int64_t channels, S* tile, int64_t row_stride, int64_t pixel_stride);
};

struct WinogradConv2dKernels {
  WinogradConv2dKernel<float> of_float;
  WinogradConv2dKernel<double> of_double;
  WinogradConv2dKernel<BFloat16> of_bfloat16;
  WinogradConv2dKernel<Float16> of_float16;
  const WinogradConv2dKernel<float>& of(float) const { return of_float; }
  const WinogradConv2dKernel<double>& of(double) const { return of_double; }
  const WinogradConv2dKernel<BFloat16>& of(BFloat16) const { return of_bfloat16; }
  const WinogradConv2dKernel<Float16>& of(Float16) const { return of_float16; }
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::WinogradConv2dKernels, winograd_conv2d_kernels)
