#pragma once

#include <cstdint>

#include "cpu/simd/half.h"
#include "cpu/simd/variants.h"

namespace dynamask::simd {

// Rows of channels, one for each pixel, `pixel` numbers apart.
template <typename T>
struct PixelRow {
  T* data;
  int64_t pixel;
};

// A 3x3 convolution of few outputs over rows of a ringed image [rows + 2, width + 2, channels]. The
// three pixels under a row of the window lie side by side, so they are one run of `depth` numbers.
template <typename T>
struct NarrowConv3x3 {
  int64_t rows, width, outs, depth;  // depth is 3 * channels, outs a multiple of 6
  const T* in;                       // where the window of the first pixel starts
  int64_t in_row;
  const T* weight;  // [outs, 3, weight_row], whole vectors, filled with zeros
  int64_t weight_row;
  const Wide<T>* bias;
  Wide<T>* out;  // [outs, rows * width]
};

// Images are of type T, sums of Wide<T>.
template <typename T>
struct FeatureAggregationKernel {
  // out[i] is the i-th pixel of a row doubled, i < 2 * width; near and far are the two rows that
  // make it up, before their ReLU.
  void (*upsample_row)(PixelRow<const Wide<T>> near, PixelRow<const Wide<T>> far, int64_t width,
                       int64_t channels, PixelRow<T> out);
  // out = relu(in) + add; add.data may be nullptr.
  void (*relu)(PixelRow<const Wide<T>> in, PixelRow<const T> add, int64_t pixels, int64_t channels,
               PixelRow<T> out);
  void (*narrow_conv3x3)(const NarrowConv3x3<T>& conv);
};

struct FeatureAggregationKernels {
  FeatureAggregationKernel<float> of_float;
  FeatureAggregationKernel<double> of_double;
  const FeatureAggregationKernel<float>& of(float) const { return of_float; }
  const FeatureAggregationKernel<double>& of(double) const { return of_double; }
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::FeatureAggregationKernels, feature_aggregation_kernels)
DYNAMASK_DECLARE_BF16(dynamask::simd::FeatureAggregationKernel<dynamask::simd::BFloat16>,
                      bf16_feature_aggregation_kernel)
