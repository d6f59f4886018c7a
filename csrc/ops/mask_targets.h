// mask_targets: what lies inside a box of an instance's outline or bitmap, as S x S binary masks.
//
// Polygons: every vertex (x, y) is moved into the S x S grid of the box (x0, y0, x1, y1),
//
//   ((x - x0) * (S / max(x1 - x0, 1)), (y - y0) * (S / max(y1 - y0, 1)))        in fp64
//
// and every ring is rasterised as in common/polygon.h; the target is the union of the rings.
//
// Bitmasks: the box is divided into S x S bins, each bin into ceil(bin) x ceil(bin) samples, and
// the bitmask is interpolated at each sample as in roi_align(aligned=True, sampling_ratio=-1), in
// fp32; the target is 1 where the average over a bin is at least 0.5. Along each axis a sample is
// two taps, so the average over a bin is a sum over rows of a sum over columns of merged taps.
// Where that sum is too close to 0.5 to know, the samples are added one by one as roi_align does.
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

template <typename T>
DYNAMASK_HOST_DEVICE bool is_finite(T x) {
  return x - x == 0;
}

template <typename T>
DYNAMASK_HOST_DEVICE bool is_finite_box(const T* box) {
  return is_finite(box[0]) && is_finite(box[1]) && is_finite(box[2]) && is_finite(box[3]);
}

// A sample of one axis: its two pixels and their parts.
struct AxisSample {
  int32_t low, high;
  float at_low, at_high;
};

// S bins over one axis of a box, on a bitmask of `length` pixels.
struct SampledAxis {
  float start, bin;
  int64_t samples;  // per bin
  int32_t size, length;

  DYNAMASK_HOST_DEVICE float corner(int32_t b) const { return start + b * bin; }
  DYNAMASK_HOST_DEVICE float step(int64_t sample) const { return (sample + .5f) * bin / samples; }
  DYNAMASK_HOST_DEVICE bool contains(float position) const {
    return position >= -1 && position <= length;
  }
  // The taps of a sample at corner(b) + step(s), which the axis contains
  DYNAMASK_HOST_DEVICE AxisSample at(float position) const {
    const float x = position > 0 ? position : 0;
    const auto low = int32_t(x);
    if (low >= length - 1) return {length - 1, length - 1, 1, 0};
    const float part = x - low;
    return {low, low + 1, 1 - part, part};
  }
  // Nothing is sampled, or so little of each bin is on the bitmask that no average reaches 0.5.
  DYNAMASK_HOST_DEVICE bool is_empty() const {
    return !(samples > 0 && length > 0 && bin <= 4.f * (length + 2));
  }
};

DYNAMASK_HOST_DEVICE SampledAxis sampled_axis(float low, float high, int32_t size, int64_t length) {
  const float start = low - .5f, bin = ((high - .5f) - start) / size;
  const bool countable = bin > 0 && bin < 1e9f;
  return {start, bin, countable ? int64_t(std::ceil(bin)) : 0, size, int32_t(length)};
}

// The average over one bin with the additions of roi_align, one sample after the other; pixel(row,
// column) is 0 or 1.
template <typename Pixel>
DYNAMASK_HOST_DEVICE float average_of_samples(const SampledAxis& y, const SampledAxis& x,
                                              int32_t bin_y, int32_t bin_x, const Pixel& pixel) {
  float sum = 0;
  for (int64_t i = 0; i < y.samples; ++i) {
    const float at_y = y.corner(bin_y) + y.step(i);
    if (!y.contains(at_y)) continue;
    const auto v = y.at(at_y);
    for (int64_t j = 0; j < x.samples; ++j) {
      const float at_x = x.corner(bin_x) + x.step(j);
      if (!x.contains(at_x)) continue;
      const auto u = x.at(at_x);
      sum += v.at_low * u.at_low * pixel(v.low, u.low) +
             v.at_low * u.at_high * pixel(v.low, u.high) +
             v.at_high * u.at_low * pixel(v.high, u.low) +
             v.at_high * u.at_high * pixel(v.high, u.high);
    }
  }
  return sum / float(y.samples * x.samples);
}

// Twice what rounding can do to a sum of this many terms that is about 0.5.
DYNAMASK_HOST_DEVICE float rounding_margin(const SampledAxis& y, const SampledAxis& x) {
  return (float(y.samples) * float(x.samples) + 64) * 0x1p-24f;
}

// Rows of a bit mask are whole 64-bit words, column k in bit k % 64 of word k / 64.
DYNAMASK_HOST_DEVICE int32_t words_per_row(int32_t size) { return (size + 63) / 64; }

}  // namespace dynamask
