// The kernel that rasterises outlines: the targets of all sizes in one launch.

#pragma once

#include "cuda/target_boxes.h"

namespace dynamask::cuda {

constexpr int kMaxOutlineTarget = 1024;  // rows of a target that fit shared memory

// The outlines as plain arrays. Offsets are limited to what is there, so that wrong ones cannot
// lead astray.
struct DeviceOutlines {
  const float* vertices;
  const int64_t *rings, *instances;
  int64_t num_vertices, num_rings;

  DYNAMASK_HOST_DEVICE int64_t ring(int64_t g) const { return limit(instances[g], num_rings); }
  DYNAMASK_HOST_DEVICE int64_t vertex(int64_t r) const { return limit(rings[r], num_vertices); }

 private:
  DYNAMASK_HOST_DEVICE static int64_t limit(int64_t i, int64_t end) {
    return i < 0 ? 0 : i < end ? i : end;
  }
};

// Whether an outline has a vertex that is not finite in a grid; a thread looks at every 128th.
DYNAMASK_HOST_DEVICE bool has_infinite_vertex(const DeviceOutlines& outlines, int64_t g,
                                              const PolygonGrid& grid, int64_t first,
                                              int64_t step) {
  const int64_t end = outlines.vertex(outlines.ring(g + 1));
  for (int64_t v = outlines.vertex(outlines.ring(g)) + first; v < end; v += step) {
    const auto p = grid.place(outlines.vertices[2 * v], outlines.vertices[2 * v + 1]);
    if (!is_finite(p.x) || !is_finite(p.y)) return true;
  }
  return false;
}

// Sets a bit per row: turns[row] gets the running parity of itself and all rows above. One warp, a
// lane per row.
static __device__ void enclose(const unsigned long long* turns, unsigned long long* inside,
                               int32_t rows) {
  const int lane = threadIdx.x % 32;
  unsigned long long above = 0;
  for (int32_t first = 0; first < rows; first += 32) {
    const int32_t row = first + lane;
    unsigned long long parity = row < rows ? turns[row] : 0;
    for (int step = 1; step < 32; step *= 2) {
      const unsigned long long other = __shfl_up_sync(~0u, parity, step);
      if (lane >= step) parity ^= other;
    }
    parity ^= above;
    if (row < rows) inside[row] |= parity;
    above = __shfl_sync(~0u, parity, 31);
  }
}

// A block owns one RoI at one size and takes 64 columns at a time: threads own edges of a ring,
// then a warp the rows. Bound by latency: a few barriers per ring, some hundred operations per
// edge.
static __global__ void mask_targets_polygons_kernel(const __grid_constant__ TargetBoxes<double> a,
                                                    DeviceOutlines outlines) {
  __shared__ unsigned long long turns[kMaxOutlineTarget], inside[kMaxOutlineTarget];
  __shared__ int is_bad;
  const int64_t r = blockIdx.x, k = blockIdx.y;
  const int32_t size = a.size[k], t = threadIdx.x, threads = blockDim.x;
  uint8_t* out = a.target(r, k);
  const bool exists = a.exists(r);
  const int64_t g = exists ? a.index[r] : 0;
  const PolygonGrid grid = polygon_grid(a.boxes + 4 * r, size);
  if (t == 0) is_bad = !exists;
  __syncthreads();
  if (exists && has_infinite_vertex(outlines, g, grid, t, threads)) atomicOr(&is_bad, 1);
  __syncthreads();
  const bool is_zero = is_bad;
  const int64_t end = is_zero ? 0 : outlines.ring(g + 1);

  for (int32_t left = 0; left < size; left += 64) {
    for (int32_t row = t; row < size; row += threads) inside[row] = 0;
    for (int64_t ring = is_zero ? 0 : outlines.ring(g); ring < end; ++ring) {
      for (int32_t row = t; row < size; row += threads) turns[row] = 0;
      __syncthreads();
      const int64_t first = outlines.vertex(ring), n = outlines.vertex(ring + 1) - first;
      const float* v = outlines.vertices + 2 * first;
      for (int64_t i = t; i < n; i += threads) {
        const int64_t j = i + 1 < n ? i + 1 : 0;
        const auto from = grid.place(v[2 * i], v[2 * i + 1]),
                   to = grid.place(v[2 * j], v[2 * j + 1]);
        for_each_turn(from, to, size, [&](int32_t column, int32_t row) {
          if (row < size && column / 64 == left / 64) atomicXor(&turns[row], 1ull << column % 64);
        });
      }
      __syncthreads();
      if (t < 32) enclose(turns, inside, size);
      __syncthreads();
    }
    __syncthreads();
    const int32_t columns = size - left < 64 ? size - left : 64;
    for (int32_t i = t; i < size * columns; i += threads)
      out[i / columns * size + left + i % columns] = inside[i / columns] >> i % columns & 1;
    __syncthreads();
  }
}

inline void mask_targets_polygons(Stream stream, const TargetBoxes<double>& a,
                                  const DeviceOutlines& outlines) {
  const dim3 grid(a.rois, a.sizes);
  if (a.rois > 0 && a.sizes > 0)
    launch(stream, grid, kTargetThreads, mask_targets_polygons_kernel, a, outlines);
}

}  // namespace dynamask::cuda
