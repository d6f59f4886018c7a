// feature_aggregation: one stage of a region-wise feature pyramid (FAM of DynaMask), for N RoIs.
//
//   x = up2(relu(reduce(x)))                1x1, C -> C', at S; then doubled
//   p = relu(project(crop(level)))          1x1, C' -> C'; roi_align with one sample per cell, 2 S
//   a = relu(align(x; offset1([x, p])))     3x3 deformable, its offsets by a 3x3 of 2 C' channels
//   f = a + p
//   y = relu(attend(f; offset2(f)))         3x3 deformable, its offsets by a 1x1
//
// Doubling is bilinear, with the corners of the outermost pixels, not their centres, at the border
// (align_corners=False): along each axis output i is 3/4 of input i / 2 and 1/4 of its neighbour
// on the side that i lies on, which at the border is the input itself.

#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace dynamask {

struct FeatureAggregationShape {
  int64_t rois, channels, height, width;  // of the features that come in, or of those that count
  int64_t out_channels, offset_groups;
  int64_t batch, level_height, level_width;

  DYNAMASK_HOST_DEVICE int64_t pixels() const { return height * width; }
  DYNAMASK_HOST_DEVICE int64_t out_height() const { return 2 * height; }
  DYNAMASK_HOST_DEVICE int64_t out_width() const { return 2 * width; }
  DYNAMASK_HOST_DEVICE int64_t out_pixels() const { return 4 * pixels(); }
  DYNAMASK_HOST_DEVICE int64_t offsets() const { return 18 * offset_groups; }  // of a pixel
  DYNAMASK_HOST_DEVICE int64_t group_channels() const { return out_channels / offset_groups; }
};

// The two inputs of output i when `length` of them are doubled.
struct DoubledPixel {
  static constexpr float kNear = 0.75f, kFar = 0.25f;
  int64_t near, far;

  DYNAMASK_HOST_DEVICE DoubledPixel(int64_t i, int64_t length) : near(i / 2) {
    far = i % 2 ? near + 1 : near - 1;
    if (far < 0 || far == length) far = near;
  }
};

}  // namespace dynamask
