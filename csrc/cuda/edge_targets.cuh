// The kernels of edge_targets and block_targets: masks of all sizes in one launch.

#pragma once

#include "common/host_device.h"
#include "cuda/launch.h"
#include "ops/edge_targets.h"

namespace dynamask::cuda {

constexpr int kMaxMaskSizes = 8;
constexpr int kEdgeThreads = 256;

// Masks [N, H, W] of several sizes, and where their results go.
template <typename From, typename To>
struct MasksOfSizes {
  int64_t sizes;
  const From* masks[kMaxMaskSizes];
  To* out[kMaxMaskSizes];
  int32_t height[kMaxMaskSizes], width[kMaxMaskSizes];
  int64_t end[kMaxMaskSizes];  // of its pixels among those of all sizes
  From magnitude;              // MaskBits

  int64_t pixels() const { return sizes == 0 ? 0 : end[sizes - 1]; }
};

// One pixel of one mask, and what lies around it.
template <typename From, typename To>
struct MaskPixel {
  const From* mask;  // its own
  To* out;
  int32_t height, width, y, x;
  From magnitude;

  DYNAMASK_HOST_DEVICE MaskPixel(const MasksOfSizes<From, To>& a, int64_t i)
      : magnitude(a.magnitude) {
    int64_t size = 0;
    while (i >= a.end[size]) ++size;
    if (size > 0) i -= a.end[size - 1];
    height = a.height[size], width = a.width[size];
    const int64_t area = static_cast<int64_t>(height) * width;
    const int64_t place = i % area;
    mask = a.masks[size] + (i - place);
    out = a.out[size] + i;
    y = static_cast<int32_t>(place / width), x = static_cast<int32_t>(place % width);
  }

  // Whether a pixel is foreground; all outside is background.
  DYNAMASK_HOST_DEVICE bool on(int32_t y, int32_t x) const {
    return 0 <= y && y < height && 0 <= x && x < width &&
           (mask[static_cast<int64_t>(y) * width + x] & magnitude) != 0;
  }
  // How many of the (2 r + 1)^2 around a pixel are foreground.
  DYNAMASK_HOST_DEVICE int around(int32_t y, int32_t x, int r) const {
    int count = 0;
    for (int i = -r; i <= r; ++i)
      for (int j = -r; j <= r; ++j) count += on(y + i, x + j);
    return count;
  }
  DYNAMASK_HOST_DEVICE bool is_edge(int32_t y, int32_t x) const {
    return on(y, x) && around(y, x, 1) < 9;
  }
};

// A thread owns a pixel. Bound by memory: neighbours come out of the L1.
template <typename From>
__global__ void edge_targets_kernel(const __grid_constant__ MasksOfSizes<From, From> a, From one,
                                    bool with_coarse) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.end[a.sizes - 1]) return;
  const MaskPixel<From, From> p(a, i);
  const bool edge = p.is_edge(p.y, p.x) || (with_coarse && p.is_edge(p.y & ~1, p.x & ~1));
  *p.out = edge ? one : From(0);
}

// A thread owns a pixel. Bound by instructions: 25 looks for the usual width of 2.
template <typename From>
__global__ void block_targets_kernel(const __grid_constant__ MasksOfSizes<From, uint8_t> a,
                                     Blocks blocks) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.end[a.sizes - 1]) return;
  const MaskPixel<From, uint8_t> p(a, i);
  const int count = p.around(p.y, p.x, blocks.width);
  const bool on = p.on(p.y, p.x);
  const int unlike = on ? blocks.sites - count : count;
  *p.out = unlike >= blocks.least ? 1 : on ? 2 : 0;
}

template <typename From>
void edge_targets(Stream stream, const MasksOfSizes<From, From>& a, From one, bool with_coarse) {
  if (a.pixels() > 0)
    launch(stream, ceil_divide(a.pixels(), kEdgeThreads), kEdgeThreads, edge_targets_kernel<From>,
           a, one, with_coarse);
}

template <typename From>
void block_targets(Stream stream, const MasksOfSizes<From, uint8_t>& a, const Blocks& blocks) {
  if (a.pixels() > 0)
    launch(stream, ceil_divide(a.pixels(), kEdgeThreads), kEdgeThreads, block_targets_kernel<From>,
           a, blocks);
}

}  // namespace dynamask::cuda
