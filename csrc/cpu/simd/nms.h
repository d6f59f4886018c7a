#pragma once

#include <cstdint>

#include "cpu/simd/variants.h"

namespace dynamask::simd {

// Boxes by falling score, a column per number. Each column goes on to a multiple of 64.
template <typename T>
struct BoxColumns {
  static constexpr int64_t kStep = 64;
  const T *x1, *y1, *x2, *y2, *area;
  // Two boxes can overlap too much only if they have more in common than the sum of their shares.
  const T* share;
};

// Boxes in strips by where they begin, so that what may overlap one too much lies side by side.
template <typename T>
struct BoxStrips {
  BoxColumns<T> boxes;   // strip by strip
  const int32_t* place;  // there, of the boxes by falling score
  const int32_t* first;  // box of each strip, and the end
  int32_t count;         // of strips
  T left, per_unit;      // strip s begins at left + s / per_unit
  T slack;               // for the rounding of coordinates

  // The strip of x: the first and the last one it can be.
  int32_t first_of(T x) const {
    const T s = (x - left) * per_unit;
    return s > 0 ? (s < T(count) ? static_cast<int32_t>(s) : count - 1) : 0;
  }
  int32_t last_of(T x) const {
    const T s = (x - left) * per_unit;
    return s < T(count) ? (s > 0 ? static_cast<int32_t>(s) : 0) : count - 1;
  }
};

// Each writes the positions by score of the boxes that are kept, at most max_keep, and returns
// their number. dead: a bit per box, set for those past the last one.
template <typename T>
struct NmsKernel {
  // Boxes by falling score
  int64_t (*keep)(const BoxColumns<T>& boxes, int64_t count, T threshold, int64_t max_keep,
                  uint64_t* dead, int64_t* keep);
  int64_t (*keep_of_strips)(const BoxStrips<T>& strips, int64_t count, T threshold,
                            int64_t max_keep, uint64_t* dead, int64_t* keep);
};

struct NmsKernels {
  NmsKernel<float> of_float;
  NmsKernel<double> of_double;
  const auto& of(float) const { return of_float; }
  const auto& of(double) const { return of_double; }
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::NmsKernels, nms_kernels)
