// paste_masks: each low-resolution mask resized onto the pixels of its box, then cut at a
// threshold.
//
//   out[n, y, x] = resized(masks[n], boxes[n])(y, x) >= threshold
//
// What `resized` means differs between the libraries whose masks are to be met bit for bit:
//
//   detectron2   grid_sample, align_corners=False, zeros outside: a pixel centre x + 1/2 lies at
//                (x + 1/2 - x0) / (x1 - x0) * M - 1/2 between the samples of the mask. Only the
//                pixels [floor(x0) - 1, ceil(x1) + 1) are looked at.
//   torchvision  the mask gets a ring of zeros, the box grows with it and is cut to integers
//                [X0, X1], and interpolate() resizes the ringed mask to X1 - X0 + 1 pixels.
//
// Both become the same two tables per box: for each pixel of an axis the sample before it in the
// mask with its ring of zeros (`cell`), and the weights of that sample and of the next. Ties at the
// threshold are common (masks are often 0, 1 and 1/2), so the order of operations below is that of
// torch's own kernels, with its fused multiply-adds, and must not be tidied.
//
// A box that is inverted, or has a corner that is not finite, pastes nothing; so does a mask of
// size 0. A pixel whose value is NaN is background.

#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace dynamask {

enum class PasteMode { detectron2, torchvision };

// In which order four weighted samples are summed.
enum class SumOrder { grid_sample, upsample, upsample_small };

// The map from pixels to mask samples along one axis.
struct PasteAxis {
  int32_t begin = 0, end = 0;   // pixels to look at
  bool grid = true;             // grid_sample's map, or else interpolate's
  float start = 0, extent = 0;  // grid: corner and length of the box
  int32_t origin = 0;  // interpolate: first pixel of the integer box, inside the image or not
  float scale = 0;     // interpolate: samples per pixel
};

struct PasteBox {
  PasteAxis x, y;
  SumOrder order = SumOrder::grid_sample;

  DYNAMASK_HOST_DEVICE bool empty() const { return x.begin >= x.end || y.begin >= y.end; }
};

DYNAMASK_HOST_DEVICE int32_t clamp_to_pixel(float x, int32_t size) {
  return x > 0 ? (x < static_cast<float>(size) ? static_cast<int32_t>(x) : size) : 0;
}

DYNAMASK_HOST_DEVICE PasteAxis grid_axis(float low, float high, int32_t pixels) {
  PasteAxis axis;
  axis.begin = clamp_to_pixel(floorf(low) - 1, pixels);
  axis.end = clamp_to_pixel(ceilf(high) + 1, pixels);
  axis.start = low;
  axis.extent = high - low;
  return axis;
}

// Truncates, and keeps what no image reaches, and NaN, within 32 bits.
DYNAMASK_HOST_DEVICE int32_t truncate(float x) {
  constexpr float limit = 1 << 30;
  return static_cast<int32_t>(x > limit ? limit : x > -limit ? x : -limit);
}

// `pixels_of_box` gets the size interpolate() is asked for.
DYNAMASK_HOST_DEVICE PasteAxis upsample_axis(float low, float high, int64_t mask_size,
                                             int32_t pixels, int64_t& pixels_of_box) {
  const float half = (high - low) * 0.5f, centre = (high + low) * 0.5f;
  const float grown = half * static_cast<float>(static_cast<double>(mask_size + 2) /
                                                static_cast<double>(mask_size));
  const int32_t first = truncate(centre - grown), last = truncate(centre + grown);
  pixels_of_box = int64_t{last} - first + 1;
  if (pixels_of_box < 1) pixels_of_box = 1;
  PasteAxis axis;
  axis.grid = false;
  axis.begin = first < 0 ? 0 : first;
  axis.end = last + 1 < pixels ? last + 1 : pixels;
  axis.origin = first;
  axis.scale = static_cast<float>(mask_size + 2) / static_cast<float>(pixels_of_box);
  return axis;
}

DYNAMASK_HOST_DEVICE PasteBox paste_box(PasteMode mode, const float* box, int64_t mask_size,
                                        int32_t height, int32_t width) {
  PasteBox out;
  const float x0 = box[0], y0 = box[1], x1 = box[2], y1 = box[3];
  // the differences of finite numbers are not NaN; of others they may be, and the sum always shows
  const bool finite = (x0 - x0) + (y0 - y0) + (x1 - x1) + (y1 - y1) == 0;
  if (mask_size == 0 || !finite || x1 < x0 || y1 < y0) return out;
  if (mode == PasteMode::detectron2) {
    out.x = grid_axis(x0, x1, width);
    out.y = grid_axis(y0, y1, height);
    return out;
  }
  int64_t box_width, box_height;
  out.x = upsample_axis(x0, x1, mask_size, width, box_width);
  out.y = upsample_axis(y0, y1, mask_size, height, box_height);
  // interpolate() has another kernel for small images
  const bool small = box_width + box_height <= 128;
  out.order = small ? SumOrder::upsample_small : SumOrder::upsample;
  return out;
}

struct PasteSample {
  int32_t cell;  // of the mask with its ring of zeros; -1: the pixel is outside and reads zero
  float before, after;
};

DYNAMASK_HOST_DEVICE PasteSample grid_sample_at(const PasteAxis& axis, int32_t pixel,
                                                int32_t mask_size) {
  const float size = static_cast<float>(mask_size);
  const float grid = (static_cast<float>(pixel) + 0.5f - axis.start) / axis.extent * 2.f - 1.f;
  const float place = fmaf(grid + 1.f, size * 0.5f, -0.5f);
  const bool inside = place >= -1.f && place < size;  // false for NaN
  const float safe = inside ? place : 0.f;
  int32_t cell = static_cast<int32_t>(safe);
  cell -= static_cast<float>(cell) > safe;
  const float after = safe - static_cast<float>(cell);
  return {inside ? cell + 1 : -1, 1.f - after, after};
}

DYNAMASK_HOST_DEVICE PasteSample upsample_at(const PasteAxis& axis, int32_t pixel,
                                             int32_t mask_size) {
  const float unclamped = fmaf(axis.scale, static_cast<float>(pixel - axis.origin) + 0.5f, -0.5f);
  const float place = unclamped > 0.f ? unclamped : 0.f;
  const int32_t last = mask_size + 1;
  const int32_t whole = static_cast<int32_t>(place), cell = whole < last ? whole : last;
  const float rest = place - static_cast<float>(cell), after = rest < 1.f ? rest : 1.f;
  return {cell < last ? cell : -1, 1.f - after, after};
}

// The value of a pixel between samples (a b) over (c d); x and y weigh the near and the far ones.
DYNAMASK_HOST_DEVICE float paste_value(SumOrder order, float a, float b, float c, float d,
                                       float x_near, float x_far, float y_near, float y_far) {
  if (order == SumOrder::upsample) {
    const float upper = fmaf(a, x_near, b * x_far), lower = fmaf(c, x_near, d * x_far);
    return fmaf(upper, y_near, lower * y_far);
  }
  const float wa = y_near * x_near, wb = y_near * x_far, wc = y_far * x_near, wd = y_far * x_far;
  const float upper = order == SumOrder::grid_sample ? fmaf(b, wb, a * wa) : fmaf(a, wa, b * wb);
  return fmaf(d, wd, fmaf(c, wc, upper));
}

}  // namespace dynamask
