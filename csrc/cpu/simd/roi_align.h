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

// A run of outputs that lie side by side and read no more than kWindow inputs side by side.
struct TapGroup {
  static constexpr int kWindow = 32, kLanes = 16;
  int64_t first, count;  // which outputs
  int64_t begin;         // of the window
  int64_t taps;          // the most that one of them has
  uint16_t has_taps;     // a bit for each
  const int32_t* index;  // [taps, kLanes] in the window
  const float* weight;   // [taps, kLanes]
};

// A group for each output at worst, each with room for as many taps as its window has inputs.
template <typename T>
int64_t planes_scratch(const TapAxis<T>& x) {
  constexpr int64_t group = sizeof(TapGroup) + TapGroup::kWindow * TapGroup::kLanes * 8;
  return (x.size + 64) * sizeof(T) + 64 + x.count * group;
}

// In is what is read, Out what is written. Accumulating kernels add to what is there.
template <typename In, typename T, typename Out>
struct SeparableKernel {
  // out[yi, xj, c] = sum of taps: channels are innermost, C of them are worked on
  void (*rows)(const In* in, const TapAxis<T>& y, const TapAxis<T>& x, Out* out, int64_t channels);
  // out[c, yi, xj], planes apart by in_plane and out_plane, offsets of x one element each.
  // scratch holds planes_scratch(x) bytes, aligned to 64.
  void (*planes)(const In* in, const TapAxis<T>& y, const TapAxis<T>& x, Out* out, int64_t channels,
                 int64_t in_plane, int64_t out_plane, char* scratch);
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
