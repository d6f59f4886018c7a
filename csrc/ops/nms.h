// nms: walk the boxes by falling score, keep each that overlaps none kept before it too much.
//
//   a, b overlap too much:  |a and b| / (|a| + |b| - |a and b|) > iou_threshold
//
// batched_nms compares boxes of one group only, by their numbers: there is no shift of coordinates
// that could run out of digits. Equal scores keep the order of the input.
//
// A box with a NaN coordinate or score is never kept. One with an infinite coordinate overlaps
// nothing (its share is 0 or NaN) and is kept. So is one without area.

#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "common/host_device.h"

namespace dynamask {

template <typename T>
struct NmsBox {
  T x1, y1, x2, y2, area;

  DYNAMASK_HOST_DEVICE explicit NmsBox(const T* corners)
      : x1(corners[0]),
        y1(corners[1]),
        x2(corners[2]),
        y2(corners[3]),
        area((x2 - x1) * (y2 - y1)) {}

  // In this order of operations: results are compared bit for bit with other libraries.
  DYNAMASK_HOST_DEVICE bool overlaps(const NmsBox& b, T threshold) const {
    const T width = (x2 < b.x2 ? x2 : b.x2) - (x1 > b.x1 ? x1 : b.x1);
    const T height = (y2 < b.y2 ? y2 : b.y2) - (y1 > b.y1 ? y1 : b.y1);
    const T both = (width > 0 ? width : T(0)) * (height > 0 ? height : T(0));
    return both / (area + b.area - both) > threshold;
  }
};

// The largest T not above the threshold: x > threshold is the same for every x of type T.
template <typename T>
T nms_threshold(double threshold) {
  const T near = static_cast<T>(threshold);
  return near > threshold ? std::nextafter(near, -std::numeric_limits<T>::infinity()) : near;
}

}  // namespace dynamask
