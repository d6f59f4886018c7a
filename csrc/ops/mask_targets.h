// mask_targets: what lies inside a box of an instance's outline or bitmap, as S x S binary masks.
//
// Polygons: every vertex (x, y) is moved into the S x S grid of the box (x0, y0, x1, y1),
//
//   ((x - x0) * (S / max(x1 - x0, 1)), (y - y0) * (S / max(y1 - y0, 1)))        in fp64
//
// and every ring is rasterised as in common/polygon.h; the target is the union of the rings.
//
// A box or a vertex that is not finite, or an instance that does not exist, gives a target of
// zeros.

#pragma once

#include <cmath>
#include <cstdint>

#include "common/polygon.h"

namespace dynamask {

struct PolygonGrid {
  double x0, y0, scale_x, scale_y;
  int32_t size;

  DYNAMASK_HOST_DEVICE FineVertex place(double x, double y) const {
    return fine_vertex((x - x0) * scale_x, (y - y0) * scale_y, size);
  }
};

DYNAMASK_HOST_DEVICE PolygonGrid polygon_grid(const double* box, int32_t size) {
  const double width = box[2] - box[0], height = box[3] - box[1];
  return {box[0], box[1], size / (width > 1 ? width : 1), size / (height > 1 ? height : 1), size};
}

DYNAMASK_HOST_DEVICE bool is_finite(double x) { return x - x == 0; }

DYNAMASK_HOST_DEVICE bool is_finite_box(const double* box) {
  return is_finite(box[0]) && is_finite(box[1]) && is_finite(box[2]) && is_finite(box[3]);
}

// Rows of a bit mask are whole 64-bit words, column k in bit k % 64 of word k / 64.
DYNAMASK_HOST_DEVICE int32_t words_per_row(int32_t size) { return (size + 63) / 64; }

}  // namespace dynamask
