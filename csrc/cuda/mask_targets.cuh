// The kernel that crops bitmaps: the targets of all sizes in one launch, nothing copied per box.

#pragma once

#include "cuda/launch.h"
#include "ops/mask_targets.h"

namespace dynamask::cuda {

constexpr int kMaxTargetSizes = 8;
constexpr int kTargetThreads = 128;
constexpr int kBlocksPerTarget = 8;

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

  // The sum over every `lanes`-th row, from row `lane` on, with the samples of each axis merged by
  // pixel. All rows together divided by samples(): the average, up to rounding_margin().
  DYNAMASK_HOST_DEVICE float sum_of_rows(int lane, int lanes) const {
    float sum = 0;
    int next = 0;
    for_each_merged(y, bin_y, [&](int32_t row, float weight_y) {
      if (next++ % lanes != lane) return;
      float of_row = 0;
      for_each_merged(
          x, bin_x, [&](int32_t column, float weight_x) { of_row += weight_x * at(row, column); });
      sum += weight_y * of_row;
    });
    return sum;
  }
  DYNAMASK_HOST_DEVICE float samples() const { return float(y.samples) * float(x.samples); }

  // The sum over all rows tells, except near the threshold.
  DYNAMASK_HOST_DEVICE bool is_foreground(float sum) const {
    float average = sum / samples();
    if (fabsf(average - .5f) <= rounding_margin(y, x))
      average = average_of_samples(y, x, bin_y, bin_x,
                                   [&](int64_t row, int64_t column) { return at(row, column); });
    return average >= .5f;
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

// How many lanes of a warp share a bin: a small target has few bins, each of many rows.
DYNAMASK_HOST_DEVICE int lanes_per_bin(int32_t area, int64_t rows) {
  int lanes = 1;
  while (lanes < 32 && lanes < rows && 2 * lanes * area <= (1 << 14)) lanes *= 2;
  return lanes;
}

// Some blocks own one RoI at one size; lanes of a warp own a bin, each every n-th row of it. Bound
// by arithmetic on the pixels under the box, which come out of the L1 and L2.
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
  const int lanes = empty ? 1 : lanes_per_bin(area, bin.y.samples);
  const int lane = threadIdx.x % lanes;
  const int32_t bins_at_once = gridDim.z * blockDim.x / lanes;
  const int32_t first = (blockIdx.z * blockDim.x + threadIdx.x) / lanes;
  const int32_t of_warp = (threadIdx.x % 32) / lanes;  // the same number of rounds for all lanes
  for (int32_t i = first; i - of_warp < area; i += bins_at_once) {
    float sum = 0;
    if (!empty && i < area) {
      bin.bin_y = i / size, bin.bin_x = i % size;
      sum = bin.sum_of_rows(lane, lanes);
    }
    for (int d = lanes / 2; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (lane == 0 && i < area) out[i] = !empty && bin.is_foreground(sum);
  }
}

inline void mask_targets(Stream stream, const TargetBoxes<float>& a, const Bitmaps& bitmaps) {
  const dim3 grid(a.rois, a.sizes, kBlocksPerTarget);
  if (a.rois > 0 && a.sizes > 0)
    launch(stream, grid, kTargetThreads, mask_targets_kernel, a, bitmaps);
}

}  // namespace dynamask::cuda
