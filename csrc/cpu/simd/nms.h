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

struct NmsKernels {
  // Writes the positions of the boxes that are kept, at most max_keep, and returns their number.
  // dead: a bit per box, set for those that are out from the start and those past the last one.
  int64_t (*keep_float)(const BoxColumns<float>& boxes, int64_t count, float threshold,
                        int64_t max_keep, uint64_t* dead, int64_t* keep);
  int64_t (*keep_double)(const BoxColumns<double>& boxes, int64_t count, double threshold,
                         int64_t max_keep, uint64_t* dead, int64_t* keep);
  auto keep(float) const { return keep_float; }
  auto keep(double) const { return keep_double; }
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::NmsKernels, nms_kernels)
