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

// How a warp shares out pixels: `lanes` of it sum the channels of one, kCount at a time, and take
// kSteps pixels one after the other, but no more than leave a lane for each.
constexpr int kSteps = 4;
struct WarpTile {
  int lanes = 1, together, pixels;

  DYNAMASK_HOST_DEVICE WarpTile(int64_t channels, int count) {
    while (lanes < 32 && lanes * count < channels) lanes *= 2;
    together = 32 / lanes;
    pixels = together * kSteps < 32 ? together * kSteps : 32;
  }
};

// A warp owns some pixels of one mask at a time. The lanes of a pixel read kCount channels each, 16
// bytes, of several pixels at once; then each lane holds a pixel and writes it. Bound by reading
// the features once.
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

  const WarpTile tile(s.channels, kCount);
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const int64_t stride = static_cast<int64_t>(gridDim.y) * warps * tile.pixels;
  for (int64_t first = (static_cast<int64_t>(blockIdx.y) * warps + threadIdx.x / 32) * tile.pixels;
       first < s.pixels; first += stride) {
    const int64_t mine = first + lane / tile.lanes;  // at the first step
    const int64_t end = min(first + tile.pixels, s.pixels);
    T sum[kSteps] = {};
    for (int64_t c = lane % tile.lanes * kCount; c < s.channels; c += tile.lanes * kCount) {
      const auto w = *reinterpret_cast<const Pack<W, kCount>*>(weight + c);
      for (int step = 0; step < kSteps; ++step) {
        const int64_t pixel = mine + step * tile.together;
        if (pixel >= end) continue;
        const auto x = *reinterpret_cast<const Pack<S, kCount>*>(features + pixel * s.channels + c);
        for (int i = 0; i < kCount; ++i)
          sum[step] = fma(T(wide(x.value[i])), T(wide(w.value[i])), sum[step]);
      }
    }
    T own = 0;
    for (int step = 0; step < kSteps; ++step) {
      for (int by = tile.lanes / 2; by > 0; by /= 2)
        sum[step] += __shfl_xor_sync(~0u, sum[step], by);
      const T of_lane = __shfl_sync(~0u, sum[step], lane % tile.together * tile.lanes);
      if (lane / tile.together == step) own = of_lane;
    }
    if (first + lane < end)
      values[mask.start + first + lane] = narrow<S>(mask.row < 0 ? T(0) : own + bias);
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
      sum = fma(T(wide(features[c * s.pixels + p])), T(wide(weight[c])), sum);
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
  const bool wide = rows && fits_packs<kWide>(a);
  int64_t blocks = 0;
  for (int64_t k = 0; k < a.plan.exits; ++k) {
    const int64_t of_warp = rows ? WarpTile(a.shape[k].channels, wide ? kWide : 1).pixels : 32;
    blocks = max(blocks, ceil_divide(a.shape[k].pixels, kExitThreads / 32 * of_warp));
  }
  if (a.plan.rois == 0 || blocks == 0) return;
  const dim3 grid(a.plan.rois, blocks < kBlocksPerRoi ? blocks : kBlocksPerRoi);
  if (!rows)
    launch(stream, grid, kExitThreads, grouped_mask_head_planes<S, W, T>, a, values);
  else if (wide)
    launch(stream, grid, kExitThreads, grouped_mask_head_rows<S, W, T, kWide>, a, values);
  else
    launch(stream, grid, kExitThreads, grouped_mask_head_rows<S, W, T, 1>, a, values);
}

}  // namespace dynamask::cuda
