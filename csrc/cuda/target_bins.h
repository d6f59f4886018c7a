// The kernel that crops bitmaps and run-length masks: the targets of all sizes in one launch,
// nothing copied per box.

#pragma once

#include "cuda/target_boxes.h"

namespace dynamask::cuda {

constexpr int kBlocksPerTarget = 8;
constexpr int kMostBins = 256, kMostTaps = 2048;  // of an axis whose taps fit shared memory

// Calls f(pixel, weight) for every pixel that the samples of a bin touch along one axis, ascending;
// samples ascend, so those of one pixel are neighbours.
template <typename F>
DYNAMASK_HOST_DEVICE void for_each_merged(const SampledAxis& axis, int32_t bin, F f) {
  int32_t pixel = -2;  // what is pending: weights of this pixel and of the next
  float near = 0, far = 0;
  const auto samples = static_cast<int32_t>(axis.samples);  // sampled_axis() lets no more be
  for (int32_t s = 0; s < samples; ++s) {
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

// The merged taps of all bins of an axis, in shared memory, for bins read them again and again.
struct AxisTaps {
  int32_t first[kMostBins];  // the pixel of the first tap of each bin
  float total[kMostBins];    // the sum of its weights
  float weight[kMostTaps];   // of pixel first[b] + i at b * taps_of_bin + i

  // Odd, so that neighbouring bins lie in different banks.
  DYNAMASK_HOST_DEVICE static int64_t taps_of_bin(const SampledAxis& axis) {
    return (axis.samples + 2) | 1;
  }
  // In images of 2^20 pixels and more, rounding may touch more pixels than that.
  DYNAMASK_HOST_DEVICE static bool fit(const SampledAxis& axis) {
    return axis.size <= kMostBins && axis.length < (1 << 20) &&
           axis.size * taps_of_bin(axis) <= kMostTaps;
  }
  DYNAMASK_HOST_DEVICE void fill(const SampledAxis& axis, int32_t bin) {
    const auto taps = static_cast<int>(taps_of_bin(axis));
    float* weights = weight + bin * taps;
    for (int i = 0; i < taps; ++i) weights[i] = 0;
    int32_t begin = -1;
    float sum = 0;
    for_each_merged(axis, bin, [&](int32_t pixel, float part) {
      if (begin < 0) begin = pixel;
      weights[pixel - begin] = part;
      sum += part;
    });
    first[bin] = begin < 0 ? 0 : begin;
    total[bin] = sum;
  }
};

// One bin of a box on a mask. Lines says where foreground is: line(i).at(place), or as bits of some
// places from one on, ascending.
template <typename Lines>
struct TargetBin {
  Lines lines;
  SampledAxis y, x;
  int32_t bin_y, bin_x;

  DYNAMASK_HOST_DEVICE TargetBin(const Lines& lines, const float* box, int32_t size)
      : lines(lines),
        y(sampled_axis(box[1], box[3], size, lines.height)),
        x(sampled_axis(box[0], box[2], size, lines.width)),
        bin_y(0),
        bin_x(0) {}

  DYNAMASK_HOST_DEVICE const SampledAxis& across() const { return Lines::kAreColumns ? x : y; }
  DYNAMASK_HOST_DEVICE const SampledAxis& along() const { return Lines::kAreColumns ? y : x; }
  DYNAMASK_HOST_DEVICE int32_t bin_across() const { return Lines::kAreColumns ? bin_x : bin_y; }
  DYNAMASK_HOST_DEVICE int32_t bin_along() const { return Lines::kAreColumns ? bin_y : bin_x; }

  // The sum over every `lanes`-th line, from line `lane` on, with the samples of each axis merged
  // by pixel. All lines together divided by samples(): the average, up to rounding_margin().
  DYNAMASK_HOST_DEVICE float sum_of_lines(int lane, int lanes) const {
    float sum = 0;
    int next = 0;
    for_each_merged(across(), bin_across(), [&](int32_t i, float weight) {
      if (next++ % lanes != lane) return;
      auto line = lines.line(i);
      float of_line = 0;
      for_each_merged(along(), bin_along(),
                      [&](int32_t place, float part) { of_line += part * line.at(place); });
      sum += weight * of_line;
    });
    return sum;
  }
  // The same, of taps that are merged already. Most lines are all background or all foreground.
  DYNAMASK_HOST_DEVICE float sum_of_lines(const AxisTaps& taps_across, const AxisTaps& taps_along,
                                          int lane, int lanes) const {
    const auto lines_of_bin = static_cast<int>(AxisTaps::taps_of_bin(across()));
    const auto places_of_bin = static_cast<int>(AxisTaps::taps_of_bin(along()));
    const float* weights = taps_across.weight + bin_across() * lines_of_bin;
    const float* parts = taps_along.weight + bin_along() * places_of_bin;
    const int32_t first = taps_across.first[bin_across()], start = taps_along.first[bin_along()];
    const int32_t places = min(places_of_bin, along().length - start);
    float sum = 0;
    for (int i = lane; i < lines_of_bin; i += lanes) {
      if (weights[i] == 0) continue;
      auto line = lines.line(first + i);
      float of_line = 0;
      for (int k = 0; k < places; k += 32) {
        const int count = min(places - k, 32);
        const uint32_t all = ~0u >> (32 - count), bits = line.bits(start + k, count) & all;
        if (bits == all && places <= 32)
          of_line = taps_along.total[bin_along()];
        else if (bits != 0)
          for (int j = 0; j < count; ++j) of_line += bits >> j & 1 ? parts[k + j] : 0;
      }
      sum += weights[i] * of_line;
    }
    return sum;
  }
  DYNAMASK_HOST_DEVICE float samples() const { return float(y.samples) * float(x.samples); }

  // The sum over all lines tells, except near the threshold.
  DYNAMASK_HOST_DEVICE bool is_foreground(float sum) const {
    float average = sum / samples();
    if (fabsf(average - .5f) <= rounding_margin(y, x))
      average = average_of_samples(y, x, bin_y, bin_x, [&](int64_t row, int64_t column) {
        return lines.line(Lines::kAreColumns ? column : row).at(Lines::kAreColumns ? row : column);
      });
    return average >= .5f;
  }
};

// How many lanes of a warp share a bin: a small target has few bins, each of many lines.
DYNAMASK_HOST_DEVICE int lanes_per_bin(int32_t area, int64_t lines) {
  int lanes = 1;
  while (lanes < 32 && lanes < lines && 2 * lanes * area <= (1 << 14)) lanes *= 2;
  return lanes;
}

// Some blocks own one RoI at one size; lanes of a warp own a bin, each every n-th line of it. Bound
// by arithmetic on the pixels under the box, which come out of the L1 and L2.
template <typename Masks>
__global__ void __launch_bounds__(kTargetThreads, 7)
    mask_targets_kernel(const __grid_constant__ TargetBoxes<float> a,
                        const __grid_constant__ Masks masks) {
  __shared__ AxisTaps taps_y, taps_x;
  const int64_t r = blockIdx.x, k = blockIdx.y;
  const int32_t size = a.size[k], area = size * size;
  uint8_t* out = a.target(r, k);
  const bool exists = a.exists(r);
  TargetBin bin(masks.of(exists ? a.index[r] : 0), a.boxes + 4 * r, size);
  const bool empty = !exists || bin.y.is_empty() || bin.x.is_empty();
  const int lanes = empty ? 1 : lanes_per_bin(area, bin.across().samples);
  if (static_cast<int32_t>(blockIdx.z * blockDim.x) / lanes >= area) return;  // none for this block
  const bool is_merged = !empty && AxisTaps::fit(bin.y) && AxisTaps::fit(bin.x);
  if (is_merged)
    for (int32_t i = threadIdx.x; i < 2 * size; i += blockDim.x) {
      const SampledAxis axis = i < size ? bin.y : bin.x;
      (i < size ? taps_y : taps_x).fill(axis, i % size);
    }
  __syncthreads();
  const AxisTaps& across = bin.lines.kAreColumns ? taps_x : taps_y;
  const AxisTaps& along = bin.lines.kAreColumns ? taps_y : taps_x;
  const int lane = threadIdx.x % lanes;
  const int32_t bins_at_once = gridDim.z * blockDim.x / lanes;
  const int32_t first = (blockIdx.z * blockDim.x + threadIdx.x) / lanes;
  const int32_t of_warp = (threadIdx.x % 32) / lanes;  // the same number of rounds for all lanes
  for (int32_t i = first; i - of_warp < area; i += bins_at_once) {
    float sum = 0;
    if (!empty && i < area) {
      bin.bin_y = i / size, bin.bin_x = i % size;
      sum =
          is_merged ? bin.sum_of_lines(across, along, lane, lanes) : bin.sum_of_lines(lane, lanes);
    }
    for (int d = lanes / 2; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (lane == 0 && i < area) out[i] = !empty && bin.is_foreground(sum);
  }
}

template <typename Masks>
void mask_targets(Stream stream, const TargetBoxes<float>& a, const Masks& masks) {
  const dim3 grid(a.rois, a.sizes, kBlocksPerTarget);
  if (a.rois > 0 && a.sizes > 0)
    launch(stream, grid, kTargetThreads, mask_targets_kernel<Masks>, a, masks);
}

}  // namespace dynamask::cuda
