// Where RoIAlign reads a feature map. A box is cut into bins; in each bin a regular grid of points
// is read bilinearly and averaged. The grid and the bilinear weights are products of one factor per
// axis, so everything here is about one axis.

#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace dynamask {

// Adaptive sampling takes about one sample per pixel of the map. Beyond this many a side, the box
// is not an object and fp32 hardly tells neighbouring samples apart: it is answered with zeros.
constexpr int64_t kLargestAdaptiveSide = int64_t(1) << 22;

// The samples of one box along one axis of a map `length` pixels long. `grid` is the number of
// samples per bin; 0 if the box has none.
template <typename T>
struct RoiAxis {
  T start, bin_size;
  int64_t bins, grid, length;

  DYNAMASK_HOST_DEVICE T position(int64_t bin, int64_t i) const {
    return start + bin * bin_size + (i + T(0.5)) * bin_size / T(grid);
  }

  // The first sample of a bin that is not left of the map. Positions only grow when bin_size >= 0,
  // so the search is by halves, however many samples a huge box has.
  DYNAMASK_HOST_DEVICE int64_t first_inside(int64_t bin) const {
    if (bin_size < 0 || grid == 0 || position(bin, 0) >= -1) return 0;
    int64_t outside = 0, inside = grid;
    while (inside - outside > 1) {
      const int64_t middle = outside + (inside - outside) / 2;
      (position(bin, middle) >= -1 ? inside : outside) = middle;
    }
    return inside;
  }
};

// from, to: the corners of a box along this axis, in pixels of the input image.
template <typename T>
DYNAMASK_HOST_DEVICE RoiAxis<T> roi_axis(T from, T to, T scale, int64_t bins, int64_t length,
                                         int64_t sampling_ratio, bool aligned) {
  const T offset = aligned ? T(0.5) : T(0);
  const T start = from * scale - offset;
  T side = (to * scale - offset) - start;
  const bool is_finite = std::isfinite(start) && std::isfinite(side);
  if (!aligned && side < 1) side = 1;
  const bool is_adaptive = sampling_ratio <= 0;
  RoiAxis<T> axis{start, side / T(bins), bins, 0, length};
  if (!is_finite || (is_adaptive && side > T(kLargestAdaptiveSide))) return axis;
  axis.grid = is_adaptive ? static_cast<int64_t>(std::ceil(axis.bin_size)) : sampling_ratio;
  if (axis.grid < 0) axis.grid = 0;
  return axis;
}

// The two pixels a sample lies between. Up to one pixel outside of the map it reads the border.
template <typename T>
struct RoiSample {
  bool is_inside;
  int64_t low, high;
  T weight_low, weight_high;
};

template <typename T>
DYNAMASK_HOST_DEVICE RoiSample<T> roi_sample(T position, int64_t length) {
  if (length == 0 || !(position >= -1 && position <= T(length))) return {false, 0, 0, 0, 0};
  if (position < 0) position = 0;
  const auto low = static_cast<int64_t>(position);
  if (low >= length - 1) return {true, length - 1, length - 1, 1, 0};
  const T fraction = position - T(low);
  return {true, low, low + 1, 1 - fraction, fraction};
}

// The image a box lies on, or -1 if that number is no image.
template <typename T>
DYNAMASK_HOST_DEVICE int64_t roi_batch_index(T index, int64_t batch) {
  return index >= 0 && index < T(batch) ? static_cast<int64_t>(index) : -1;
}

}  // namespace dynamask
