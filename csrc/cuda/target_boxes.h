// Boxes, and the targets that are made of them: what the kernels for all kinds of masks share.

#pragma once

#include "cuda/launch.h"
#include "ops/mask_targets.h"

namespace dynamask::cuda {

constexpr int kMaxTargetSizes = 8;
constexpr int kTargetThreads = 128;

// Boxes, the instances they are matched to, and the targets [R, S, S] of every size.
template <typename T>
struct TargetBoxes {
  const T* boxes;        // [R, 4]
  const int64_t* index;  // [R]
  int64_t rois, instances, sizes;
  int32_t size[kMaxTargetSizes];
  uint8_t* out[kMaxTargetSizes];

  DYNAMASK_HOST_DEVICE bool exists(int64_t r) const {
    return 0 <= index[r] && index[r] < instances && is_finite_box(boxes + 4 * r);
  }
  DYNAMASK_HOST_DEVICE uint8_t* target(int64_t r, int64_t k) const {
    return out[k] + r * size[k] * size[k];
  }
};

}  // namespace dynamask::cuda
