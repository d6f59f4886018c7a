// The kernel alone, without torch: csrc/hostcuda runs it on the CPU.

#pragma once

#include "cuda/launch.h"
#include "cuda/storage.h"
#include "ops/grouped_mask_head.h"

namespace dynamask::cuda {

constexpr int kMaxExits = 8;
constexpr int kExitThreads = 128;
constexpr int kBlocksPerRoi = 32;  // at most; a block goes on to further pixels

// Features are stored as S, weights and biases as W.
template <typename S, typename W>
struct MaskExits {
  MaskPlan plan;
  MaskExitShape shape[kMaxExits];
  const S* features[kMaxExits];  // [N, P, C] (rows) or [N, C, P]
  const W* weight[kMaxExits];    // [K, C]
  const W* bias[kMaxExits];      // [K]
};

// A warp owns 32 pixels of one mask at a time. A group of its lanes sums the channels of one pixel,
// kCount neighbours (16 bytes) per lane and step; then each lane holds a pixel and writes it. Bound
// by reading the features once.
template <typename S, typename W, typename T, int kCount>
__global__ void grouped_mask_head_rows(const __grid_constant__ MaskExits<S, W> a, S* values) {
  const int64_t place = blockIdx.x;
  const PlannedMask mask = planned_mask(a.plan, a.shape, place);
  if (mask.exit < 0) return;
  const MaskExitShape s = a.shape[mask.exit];
  const S* features = a.features[mask.exit] + place * s.pixels * s.channels;
  const int64_t row = mask.row < 0 ? 0 : mask.row;
  const W* weight = a.weight[mask.exit] + row * s.channels;
  const T bias = wide(a.bias[mask.exit][row]);

  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  int group = 1;  // lanes of a pixel
  while (group < 32 && group * kCount < s.channels) group *= 2;
  const int together = 32 / group;  // pixels
  const int64_t stride = static_cast<int64_t>(gridDim.y) * warps * 32;
  for (int64_t first = (static_cast<int64_t>(blockIdx.y) * warps + threadIdx.x / 32) * 32;
       first < s.pixels; first += stride) {
    T mine = 0;
    for (int step = 0; step < group; ++step) {
      const int64_t pixel = first + step * together + lane / group;
      T sum = 0;
      if (pixel < s.pixels)
        for (int64_t c = lane % group * kCount; c < s.channels; c += group * kCount) {
          const auto x =
              *reinterpret_cast<const Pack<S, kCount>*>(features + pixel * s.channels + c);
          const auto w = *reinterpret_cast<const Pack<W, kCount>*>(weight + c);
          for (int i = 0; i < kCount; ++i) sum += wide(x.value[i]) * wide(w.value[i]);
        }
      for (int by = group / 2; by > 0; by /= 2) sum += __shfl_xor_sync(~0u, sum, by);
      const T of_lane = __shfl_sync(~0u, sum, lane % together * group);
      if (lane / together == step) mine = of_lane;
    }
    if (first + lane < s.pixels)
      values[mask.start + first + lane] = narrow<S>(mask.row < 0 ? T(0) : mine + bias);
  }
}

// A thread owns pixels of one mask, each with all channels; neighbours read neighbours. Bound by
// reading the features once.
template <typename S, typename W, typename T>
__global__ void grouped_mask_head_planes(const __grid_constant__ MaskExits<S, W> a, S* values) {
  const int64_t place = blockIdx.x;
  const PlannedMask mask = planned_mask(a.plan, a.shape, place);
  if (mask.exit < 0) return;
  const MaskExitShape s = a.shape[mask.exit];
  const S* features = a.features[mask.exit] + place * s.pixels * s.channels;
  const int64_t row = mask.row < 0 ? 0 : mask.row;
  const W* weight = a.weight[mask.exit] + row * s.channels;
  const int64_t stride = static_cast<int64_t>(gridDim.y) * blockDim.x;
  for (int64_t p = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; p < s.pixels;
       p += stride) {
    T sum = wide(a.bias[mask.exit][row]);
    for (int64_t c = 0; c < s.channels; ++c)
      sum += wide(features[c * s.pixels + p]) * wide(weight[c]);
    values[mask.start + p] = narrow<S>(mask.row < 0 ? T(0) : sum);
  }
}

// Whether every row of channels can be read 16 bytes of features at a time.
template <int kCount, typename S, typename W>
bool fits_packs(const MaskExits<S, W>& a) {
  const auto aligned = [](const void* data, size_t bytes) {
    return reinterpret_cast<uintptr_t>(data) % bytes == 0;
  };
  for (int64_t k = 0; k < a.plan.exits; ++k)
    if (a.shape[k].channels % kCount != 0 || !aligned(a.features[k], kCount * sizeof(S)) ||
        !aligned(a.weight[k], kCount * sizeof(W)))
      return false;
  return true;
}

// All masks in one launch; T is the type of the sums.
template <typename T, typename S, typename W>
void launch_grouped_mask_head(Stream stream, const MaskExits<S, W>& a, S* values, bool rows) {
  constexpr int kWide = 16 / sizeof(S);
  int64_t most = 0;
  for (int64_t k = 0; k < a.plan.exits; ++k) most = max(most, a.shape[k].pixels);
  if (a.plan.rois == 0 || most == 0) return;
  const int64_t blocks = ceil_divide(most, kExitThreads);
  const dim3 grid(a.plan.rois, blocks < kBlocksPerRoi ? blocks : kBlocksPerRoi);
  if (!rows)
    launch(stream, grid, kExitThreads, grouped_mask_head_planes<S, W, T>, a, values);
  else if (fits_packs<kWide>(a))
    launch(stream, grid, kExitThreads, grouped_mask_head_rows<S, W, T, kWide>, a, values);
  else
    launch(stream, grid, kExitThreads, grouped_mask_head_rows<S, W, T, 1>, a, values);
}

}  // namespace dynamask::cuda
