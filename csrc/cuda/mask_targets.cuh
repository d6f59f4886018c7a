// The kernel that crops bitmaps and run-length masks: the targets of all sizes in one launch,
// nothing copied per box.

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

// Words that hold a row of pixels: column c is bit c % 32 of word c / 32.
DYNAMASK_HOST_DEVICE int64_t words_of_row(int64_t width) { return (width + 31) / 32; }

// A warp owns every so many-th word of 32 pixels, a lane one of these. Bound by memory: the bitmaps
// are read once, however many boxes lie on them.
static __global__ void pack_bitmaps_kernel(const uint8_t* pixels, int64_t rows, int64_t width,
                                           uint32_t* words) {
  const int64_t per_row = words_of_row(width), warps = gridDim.x * (blockDim.x / 32);
  const int lane = threadIdx.x % 32;
  for (int64_t i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; i < rows * per_row;
       i += warps) {
    const int64_t row = i / per_row, column = i % per_row * 32 + lane;
    const unsigned word = __ballot_sync(~0u, column < width && pixels[row * width + column] != 0);
    if (lane == 0) words[i] = word;
  }
}

// Rows of pixels, of which what is not 0 is foreground, a bit per pixel.
inline void pack_bitmaps(Stream stream, const uint8_t* pixels, int64_t rows, int64_t width,
                         uint32_t* words) {
  const int64_t blocks = ceil_divide(rows * words_of_row(width), kTargetThreads / 32);
  if (blocks > 0)
    launch(stream, blocks < 65536 ? blocks : 65536, kTargetThreads, pack_bitmaps_kernel, pixels,
           rows, width, words);
}

// A bitmap as lines, which are its rows.
struct BitmapLines {
  static constexpr bool kAreColumns = false;
  const uint32_t* words;  // [H, words_of_row]
  int64_t height, width;

  struct Line {
    const uint32_t* words;
    DYNAMASK_HOST_DEVICE float at(int64_t place) const {
      return words[place / 32] >> (place % 32) & 1;
    }
  };
  DYNAMASK_HOST_DEVICE Line line(int64_t row) const { return {words + row * words_of_row(width)}; }
};

struct Bitmaps {
  const uint32_t* words;  // [G, H, words_of_row]
  int64_t height, width;

  DYNAMASK_HOST_DEVICE BitmapLines of(int64_t g) const {
    return {words + g * height * words_of_row(width), height, width};
  }
};

// One bin of a box on a mask. Lines says where foreground is: line(i).at(place), place ascending.
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

  // The sum over every `lanes`-th line, from line `lane` on, with the samples of each axis merged
  // by pixel. All lines together divided by samples(): the average, up to rounding_margin().
  DYNAMASK_HOST_DEVICE float sum_of_lines(int lane, int lanes) const {
    float sum = 0;
    int next = 0;
    for_each_merged(across(), Lines::kAreColumns ? bin_x : bin_y, [&](int32_t i, float weight) {
      if (next++ % lanes != lane) return;
      auto line = lines.line(i);
      float of_line = 0;
      for_each_merged(along(), Lines::kAreColumns ? bin_y : bin_x,
                      [&](int32_t place, float part) { of_line += part * line.at(place); });
      sum += weight * of_line;
    });
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

// How many lanes of a warp share a bin: a small target has few bins, each of many lines.
DYNAMASK_HOST_DEVICE int lanes_per_bin(int32_t area, int64_t lines) {
  int lanes = 1;
  while (lanes < 32 && lanes < lines && 2 * lanes * area <= (1 << 14)) lanes *= 2;
  return lanes;
}

// Some blocks own one RoI at one size; lanes of a warp own a bin, each every n-th line of it. Bound
// by arithmetic on the pixels under the box, which come out of the L1 and L2.
template <typename Masks>
__global__ void mask_targets_kernel(const __grid_constant__ TargetBoxes<float> a,
                                    const __grid_constant__ Masks masks) {
  const int64_t r = blockIdx.x, k = blockIdx.y;
  const int32_t size = a.size[k], area = size * size;
  uint8_t* out = a.target(r, k);
  const bool exists = a.exists(r);
  TargetBin bin(masks.of(exists ? a.index[r] : 0), a.boxes + 4 * r, size);
  const bool empty = !exists || bin.y.is_empty() || bin.x.is_empty();
  const int lanes = empty ? 1 : lanes_per_bin(area, bin.across().samples);
  const int lane = threadIdx.x % lanes;
  const int32_t bins_at_once = gridDim.z * blockDim.x / lanes;
  const int32_t first = (blockIdx.z * blockDim.x + threadIdx.x) / lanes;
  const int32_t of_warp = (threadIdx.x % 32) / lanes;  // the same number of rounds for all lanes
  for (int32_t i = first; i - of_warp < area; i += bins_at_once) {
    float sum = 0;
    if (!empty && i < area) {
      bin.bin_y = i / size, bin.bin_x = i % size;
      sum = bin.sum_of_lines(lane, lanes);
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
