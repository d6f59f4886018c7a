// COCO's rasterisation of a polygon, one column crossing at a time.
//
// pycocotools (rleFrPoly) rounds the vertices to a grid five times finer than the pixels and walks
// every edge one grid step at a time along its longer axis, rounding the other coordinate. Where
// the walk passes the middle of pixel column k, from u = 5k + 2 to 5k + 3 or back, the column turns
// from outside to inside, or back, from row ceil((min(v) - 2) / 5) downwards.
//
// Here each turn is computed where it happens, by the floating point operations the walk would have
// done at that step. So the result has the same bits, an edge costs as much as the columns it
// crosses and not its length, and coordinates may be anything finite. A closed ring turns every
// column an even number of times.

#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace dynamask {

// A vertex on the fine grid. `column` is the number of pixel columns of the image whose middle lies
// to the left of it: an edge crosses the columns between the numbers of its ends.
struct FineVertex {
  double x, y;
  int32_t column;
};

// (int)(5 * x + .5) of C, for an x of any size
DYNAMASK_HOST_DEVICE double fine_coordinate(double x) { return std::trunc(5 * x + .5); }

// x limited to [0, high]; 0 for NaN
DYNAMASK_HOST_DEVICE double limited(double x, double high) {
  return x > 0 ? (x < high ? x : high) : 0;
}

DYNAMASK_HOST_DEVICE int32_t columns_left_of(double fine_x, int32_t width) {
  return int32_t(int64_t(limited(fine_x + 2, 5. * width)) / 5);
}

// The first row below a turn at v on the fine grid, in [0, height]
DYNAMASK_HOST_DEVICE int32_t row_below(double fine_y, int32_t height) {
  return int32_t((int64_t(limited(fine_y, 5. * height)) + 2) / 5);
}

DYNAMASK_HOST_DEVICE FineVertex fine_vertex(double x, double y, int32_t width) {
  const double fine_x = fine_coordinate(x);
  return {fine_x, fine_coordinate(y), columns_left_of(fine_x, width)};
}

// Calls turn(column, row), 0 <= column < width and 0 <= row <= height, for every column the edge
// crosses. Both vertices must be finite.
template <typename Turn>
DYNAMASK_HOST_DEVICE void for_each_turn(FineVertex a, FineVertex b, int32_t height, Turn&& turn) {
  if (a.column == b.column) return;
  const int32_t first = a.column < b.column ? a.column : b.column;
  const int32_t last = a.column < b.column ? b.column : a.column;
  const double dx = std::fabs(b.x - a.x), dy = std::fabs(b.y - a.y);
  if (dx >= dy) {  // the walk takes every u; of its two v the smaller counts
    const auto& from = a.x <= b.x ? a : b;
    const auto& to = a.x <= b.x ? b : a;
    const double slope = (to.y - from.y) / dx;
    for (int32_t k = first; k < last; ++k) {
      const double step = 5. * k + (slope < 0 ? 3 : 2) - from.x;
      turn(k, row_below(from.y + slope * step + .5, height));
    }
  } else {  // the walk takes every v; search the first step on the far side, near where it must be
    const auto& from = a.y <= b.y ? a : b;
    const auto& to = a.y <= b.y ? b : a;
    const double slope = (to.x - from.x) / dy, steps_per_column = dy / (to.x - from.x);
    for (int32_t k = first; k < last; ++k) {
      const double middle = 5. * k + 3;
      const double guess = std::ceil((middle - .5 - from.x) * steps_per_column);
      const bool before = from.x + slope * (guess - 1) + .5 < middle;
      const bool at = from.x + slope * guess + .5 < middle;
      const int late = slope > 0 ? before + at : !before + !at;
      turn(k, row_below(from.y + (guess - 1 + late) - 1, height));
    }
  }
}

}  // namespace dynamask
