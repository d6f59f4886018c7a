// The kernel that crops bitmaps: the targets of all sizes in one launch, nothing copied per box.

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

struct Bitmaps {
  const uint8_t* pixels;  // [G, H, W]: what is not 0 is foreground
  int64_t height, width;
};

// One bitmap and one bin of a box on it.
struct BitmapBin {
  const uint8_t* pixels;
  SampledAxis y, x;
  int32_t bin_y, bin_x;

  DYNAMASK_HOST_DEVICE float at(int64_t row, int64_t column) const {
    return pixels[row * x.length + column] != 0;
  }

  // The average with the samples of each axis merged by pixel: exact up to rounding_margin().
  DYNAMASK_HOST_DEVICE float average() const {
    float sum = 0;
    for_each_merged(y, bin_y, [&](int32_t row, float weight_y) {
      float of_row = 0;
      for_each_merged(
          x, bin_x, [&](int32_t column, float weight_x) { of_row += weight_x * at(row, column); });
      sum += weight_y * of_row;
    });
    return sum / (float(y.samples) * float(x.samples));
  }

 private:
  // Calls f(pixel, weight) for every pixel of a bin; samples ascend, so those of one pixel are
  // neighbours.
  template <typename F>
  DYNAMASK_HOST_DEVICE static void for_each_merged(const SampledAxis& axis, int32_t bin, F f) {
    int32_t pixel = -2;  // what is pending: weights of this pixel and of the next
    float near = 0, far = 0;
    for (int64_t s = 0; s < axis.samples; ++s) {
      const float position = axis.corner(bin) + axis.step(s);
      if (!axis.contains(position)) continue;
      const auto sample = axis.at(position);
      if (sample.low != pixel) {
        if (near > 0) f(pixel, near);
        const bool is_next = sample.low == pixel + 1;
        if (!is_next && far > 0) f(pixel + 1, far);
        near = is_next ? far : 0, far = 0;
        pixel = sample.low;
      }
      near += sample.at_low;
      far += sample.at_high;
    }
    if (near > 0) f(pixel, near);
    if (far > 0) f(pixel + 1, far);
  }
};

// A block owns one RoI at one size, a thread every 128th bin. Bound by the reads of the bitmap
// under the box, once per size, out of the L1 and L2.
static __global__ void mask_targets_kernel(const __grid_constant__ TargetBoxes<float> a,
                                           Bitmaps bitmaps) {
  const int64_t r = blockIdx.x, k = blockIdx.y;
  const int32_t size = a.size[k], area = size * size;
  uint8_t* out = a.target(r, k);
  const float* box = a.boxes + 4 * r;
  BitmapBin bin{};
  bool empty = !a.exists(r);
  if (!empty) {
    bin.pixels = bitmaps.pixels + a.index[r] * bitmaps.height * bitmaps.width;
    bin.y = sampled_axis(box[1], box[3], size, bitmaps.height);
    bin.x = sampled_axis(box[0], box[2], size, bitmaps.width);
    empty = bin.y.is_empty() || bin.x.is_empty();
  }
  for (int32_t i = threadIdx.x; i < area; i += blockDim.x) {
    float average = 0;
    if (!empty) {
      bin.bin_y = i / size, bin.bin_x = i % size;
      average = bin.average();
      if (fabsf(average - .5f) <= rounding_margin(bin.y, bin.x))
        average =
            average_of_samples(bin.y, bin.x, bin.bin_y, bin.bin_x,
                               [&](int64_t row, int64_t column) { return bin.at(row, column); });
    }
    out[i] = average >= .5f;
  }
}

inline void mask_targets(Stream stream, const TargetBoxes<float>& a, const Bitmaps& bitmaps) {
  const dim3 grid(a.rois, a.sizes);
  if (a.rois > 0 && a.sizes > 0)
    launch(stream, grid, kTargetThreads, mask_targets_kernel, a, bitmaps);
}

}  // namespace dynamask::cuda
