#pragma once

#include <cstdint>

#include "cpu/simd/half.h"
#include "cpu/simd/variants.h"

namespace dynamask::simd {

// One tap of a run of output pixels; every pointer has one entry per pixel.
template <typename T>
struct DeformTap {
  int64_t pixels;
  int32_t height, width;         // of the image
  const T *window_y, *window_x;  // where the windows of the pixels start
  T tap_y, tap_x;                // where the tap lies in its window
  const T *offset_y, *offset_x;
  const T* mask;  // nullptr: one
};

// What a tap reads of an image that a ring of zeros surrounds (cpu/deform_conv2d.h).
template <typename T>
struct DeformReads {
  int32_t* pixel;  // the upper left neighbour, counted in pixels of the ringed image
  T* weight[4];    // of upper left, upper right, lower left, lower right; times the mask
};

// Some channels of a ringed image [rows, row / channels pixels, channels].
template <typename T>
struct DeformImage {
  T* data;  // the first of the channels, at the first pixel
  int64_t row, channels;
  int64_t count;  // how many channels to treat
};

template <typename T>
struct DeformConv2dKernel {
  void (*locate)(DeformTap<T> tap, DeformReads<T> reads);
  // out[p, c] = sum of weighted neighbours. Writes whole vectors, so up to a vector too far.
  void (*sample)(DeformReads<T> reads, int64_t pixels, DeformImage<const T> image, T* out,
                 int64_t out_row);
  // products[4 * p + corner] = sum over c of grad[p, c] * neighbour[p, corner, c]
  void (*multiply)(DeformReads<T> reads, int64_t pixels, DeformImage<const T> image, const T* grad,
                   int64_t grad_row, T* products);
  // Adds the gradients of offset and mask to the three arrays, to grad_mask only if tap.mask is.
  void (*add_offset_gradients)(DeformTap<T> tap, const T* products, T* grad_y, T* grad_x,
                               T* grad_mask);
  // neighbour[p, corner, c] += weight[corner, p] * grad[p, c]
  void (*scatter)(DeformReads<T> reads, int64_t pixels, const T* grad, int64_t grad_row,
                  DeformImage<T> image);
};

struct DeformConv2dKernels {
  DeformConv2dKernel<float> of_float;
  DeformConv2dKernel<double> of_double;
  const DeformConv2dKernel<float>& of(float) const { return of_float; }
  const DeformConv2dKernel<double>& of(double) const { return of_double; }
};

// Samples of bf16, mixed with weights of fp32 and rounded once.
struct Bf16DeformConv2dKernel {
  void (*sample)(DeformReads<float> reads, int64_t pixels, DeformImage<const BFloat16> image,
                 BFloat16* out, int64_t out_row);
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::DeformConv2dKernels, deform_conv2d_kernels)
DYNAMASK_DECLARE_BF16(dynamask::simd::Bf16DeformConv2dKernel, bf16_deform_conv2d_kernel)
