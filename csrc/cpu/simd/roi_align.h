#pragma once

#include <cstdint>

#include "cpu/simd/half.h"
#include "cpu/simd/variants.h"

namespace dynamask::simd {

// One axis of a separable product: output i of `count` is the sum over its taps t, from first[i] to
// first[i + 1], of weight[t] times the input at offset[t]. It goes to place[i]. Offsets and places
// are in elements of the tensor they point into.
template <typename T>
struct TapAxis {
  int64_t count;
  const int64_t* first;
  const int64_t* offset;
  const T* weight;
  const int64_t* place;
  int64_t begin, size;  // all offsets are in [begin, begin + size); of the x axis of `planes` only
};

// In is what is read, Out what is written. Accumulating kernels add to what is there.
template <typename In, typename T, typename Out>
struct SeparableKernel {
  // out[yi, xj, c] = sum of taps: channels are innermost, C of them are worked on
  void (*rows)(
      const In* in, const TapAxis<T>& y, const TapAxis<T>& x, Out* out, int64_t channels);
  // out[c, yi, xj], planes apart by in_plane and out_plane, offsets of x one element each.
  // scratch holds x.size elements rounded up to 64.
  void (*planes)(
      const In* in, const TapAxis<T>& y, const TapAxis<T>& x, Out* out, int64_t channels,
      int64_t in_plane, int64_t out_plane, T* scratch);
};

struct RoiAlignKernels {
  SeparableKernel<float, float, float> pool_float;
  SeparableKernel<double, double, double> pool_double;
  SeparableKernel<Float16, float, Float16> pool_float16;
  SeparableKernel<BFloat16, float, BFloat16> pool_bfloat16;
  SeparableKernel<float, float, float> add_float;
  SeparableKernel<double, double, double> add_double;

  const auto& pool(float) const { return pool_float; }
  const auto& pool(double) const { return pool_double; }
  const auto& pool(Float16) const { return pool_float16; }
  const auto& pool(BFloat16) const { return pool_bfloat16; }
  const auto& add(float) const { return add_float; }
  const auto& add(double) const { return add_double; }
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::RoiAlignKernels, roi_align_kernels)
