// Ragged masks with their boxes, and one pasted pixel: what pasting and encoding share.

#pragma once

#include "cuda/launch.h"
#include "ops/paste_masks.h"

namespace dynamask::cuda {

// Ragged masks and their boxes; all arrays are on the device.
struct PasteMasks {
  const float* values;   // all masks, one after the other
  const int64_t* sizes;  // [N]
  const int64_t* ends;   // [N]: of each mask in values
  const float* boxes;    // [N, 4]
  int64_t numel;         // of values
  int64_t count;
  int32_t height, width;
  float threshold;
  PasteMode mode;
};

// What the pixels of one mask share.
struct PastedMask {
  const float* values;
  int32_t size;
  float threshold;
  PasteBox place;

  // A mask that does not lie within the values pastes nothing.
  DYNAMASK_HOST_DEVICE PastedMask(const PasteMasks& masks, int64_t n) : threshold(masks.threshold) {
    const int64_t side = masks.sizes[n], end = masks.ends[n], start = end - side * side;
    const bool fits = 0 < side && side < (int64_t{1} << 30) && 0 <= start && end <= masks.numel;
    size = fits ? static_cast<int32_t>(side) : 0;
    values = masks.values + (fits ? start : 0);
    place = paste_box(masks.mode, masks.boxes + 4 * n, size, masks.height, masks.width);
    if (place.empty()) place = PasteBox{};
  }

  DYNAMASK_HOST_DEVICE PasteSample at_x(int32_t x) const { return sample(place.x, x); }
  DYNAMASK_HOST_DEVICE PasteSample at_y(int32_t y) const { return sample(place.y, y); }

  // Whether the pixel at those places is foreground.
  DYNAMASK_HOST_DEVICE bool covers(const PasteSample& x, const PasteSample& y) const {
    if (x.cell < 0 || y.cell < 0) return false;
    const float value = paste_value(place.order, ringed(y.cell, x.cell), ringed(y.cell, x.cell + 1),
                                    ringed(y.cell + 1, x.cell), ringed(y.cell + 1, x.cell + 1),
                                    x.before, x.after, y.before, y.after);
    return value >= threshold;
  }

 private:
  DYNAMASK_HOST_DEVICE PasteSample sample(const PasteAxis& axis, int32_t pixel) const {
    return axis.grid ? grid_sample_at(axis, pixel, size) : upsample_at(axis, pixel, size);
  }
  // A sample of the mask with its ring of zeros.
  DYNAMASK_HOST_DEVICE float ringed(int32_t y, int32_t x) const {
    const bool inside = 1 <= y && y <= size && 1 <= x && x <= size;
    return inside ? values[static_cast<int64_t>(y - 1) * size + x - 1] : 0.f;
  }
};

constexpr int kBlocksPerMask = 32;

}  // namespace dynamask::cuda
