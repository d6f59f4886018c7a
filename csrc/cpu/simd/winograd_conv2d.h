#pragma once

#include <cstdint>

#include "cpu/simd/variants.h"

namespace dynamask::simd {

template <typename T>
struct WinogradConv2dKernel {
  // 6 x 6 pixels [C] to their values at the 36 points, each [C rounded up to a vector].
  void (*to_points)(const T* patch, int64_t row_stride, int64_t pixel_stride, int64_t channels,
                    T* points, int64_t point_stride);
  // Sums at the 36 points and a bias, both readable up to a whole vector, to 4 x 4 pixels [C].
  void (*to_pixels)(const T* points, int64_t point_stride, const T* bias, bool relu,
                    int64_t channels, T* tile, int64_t row_stride, int64_t pixel_stride);
};

struct WinogradConv2dKernels {
  WinogradConv2dKernel<float> of_float;
  WinogradConv2dKernel<double> of_double;
  const WinogradConv2dKernel<float>& of(float) const { return of_float; }
  const WinogradConv2dKernel<double>& of(double) const { return of_double; }
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::WinogradConv2dKernels, winograd_conv2d_kernels)
