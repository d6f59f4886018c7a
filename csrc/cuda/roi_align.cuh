// The kernels of roi_align and multiscale_roi_align: one launch for all levels of a pyramid, the
// level of a box chosen in the kernel.

#pragma once

#include "cuda/gradient_sums.h"
#include "cuda/launch.h"
#include "cuda/roi_taps.h"
#include "cuda/storage.h"
#include "ops/multiscale_roi_align.h"
#include "ops/roi_align.h"

namespace dynamask::cuda {

constexpr int kMaxLevels = 8;
constexpr int kMaxOutputs = 8;
constexpr int kPoolThreads = 256;

// How many bins a box is cut into.
struct Bins {
  int64_t y, x;
};

// A pyramid and boxes on it. T is the type of the geometry and sums.
template <typename T>
struct RoiPooling {
  const T* boxes;  // [R, 5]
  int64_t rois, batch, channels;
  int64_t sampling_ratio;
  bool aligned;
  LevelRule rule;
  int64_t heights[kMaxLevels], widths[kMaxLevels];
  T scales[kMaxLevels];
};

// The maps of every level: features, or the gradient to be summed there.
template <typename S>
struct Maps {
  S* level[kMaxLevels];
};

// Pooled features [R, C, bins.y, bins.x] of several sizes, and the block after the last of each.
template <typename S>
struct PooledOutputs {
  int64_t count;
  Bins bins[kMaxOutputs];
  S* out[kMaxOutputs];
  int64_t end[kMaxOutputs];

  void add(const Bins& size, S* to) { bins[count] = size, out[count] = to, ++count; }
};

// What one thread works on: a bin of a RoI, and kCount channels of it. With the channels innermost
// ("rows") neighbouring threads take neighbouring channels, else neighbouring bins.
template <typename T, int kCount, bool kRows>
struct PoolingItem {
  Bins bins;
  int64_t roi, bin_y, bin_x, channel;
  int64_t level = -1, image;
  RoiAxis<T> y, x;

  DYNAMASK_HOST_DEVICE PoolingItem(const RoiPooling<T>& a, const Bins& bins, int64_t i)
      : bins(bins) {
    const int64_t packs = a.channels / kCount;
    if (kRows) channel = i % packs * kCount, i /= packs;
    bin_x = i % bins.x, i /= bins.x;
    bin_y = i % bins.y, i /= bins.y;
    if (!kRows) channel = i % packs * kCount, i /= packs;
    roi = i;
    const T* box = a.boxes + 5 * roi;
    image = roi_batch_index(box[0], a.batch);
    if (image < 0) return;
    level = a.rule.level_of(box[3] - box[1], box[4] - box[2]);
    if (level < 0) return;
    y = axis(a, box[2], box[4], bins.y, a.heights[level]);
    x = axis(a, box[1], box[3], bins.x, a.widths[level]);
  }

  // Where the channels lie at the first pixel of the map, how far the next pixel and row are.
  DYNAMASK_HOST_DEVICE int64_t map_start(const RoiPooling<T>& a) const {
    return kRows ? image * a.channels * y.length * x.length + channel
                 : (image * a.channels + channel) * y.length * x.length;
  }
  DYNAMASK_HOST_DEVICE int64_t map_pixel(const RoiPooling<T>& a, int64_t py, int64_t px) const {
    return (py * x.length + px) * (kRows ? a.channels : 1);
  }
  // Where they lie in [R, C, bins_y, bins_x].
  DYNAMASK_HOST_DEVICE int64_t bin(const RoiPooling<T>& a) const {
    return kRows ? ((roi * bins.y + bin_y) * bins.x + bin_x) * a.channels + channel
                 : ((roi * a.channels + channel) * bins.y + bin_y) * bins.x + bin_x;
  }

  DYNAMASK_HOST_DEVICE bool has_samples() const { return level >= 0 && y.grid > 0 && x.grid > 0; }

  // Calls f(place in the map, weight) for every pixel of the bin.
  template <typename F>
  DYNAMASK_HOST_DEVICE void for_each_pixel(const RoiPooling<T>& a, F f) const {
    const T average = T(1) / (T(y.grid) * T(x.grid));
    const int64_t start = map_start(a);
    for_each_tap(y, bin_y, [&](int64_t py, T weight_y) {
      for_each_tap(x, bin_x, [&](int64_t px, T weight_x) {
        f(start + map_pixel(a, py, px), weight_y * weight_x * average);
      });
    });
  }

 private:
  DYNAMASK_HOST_DEVICE static RoiAxis<T> axis(const RoiPooling<T>& a, T from, T to, int64_t bins,
                                              int64_t length, T scale) {
    return roi_axis<T>(from, to, scale, bins, length, a.sampling_ratio, a.aligned);
  }
  DYNAMASK_HOST_DEVICE RoiAxis<T> axis(const RoiPooling<T>& a, T from, T to, int64_t bins,
                                       int64_t length) const {
    return axis(a, from, to, bins, length, a.scales[level]);
  }
};

template <typename T>
DYNAMASK_HOST_DEVICE int64_t pooling_items(const RoiPooling<T>& a, const Bins& bins, int count) {
  return a.rois * bins.y * bins.x * (a.channels / count);
}

// A thread owns a bin of a RoI and kCount channels, 16 bytes if they are innermost; a block belongs
// to one size of output. Bound by the L1 and L2 reads of the pixels under the boxes.
template <typename S, typename T, int kCount, bool kRows>
__global__ void roi_align_forward_kernel(const __grid_constant__ RoiPooling<T> a,
                                         const __grid_constant__ Maps<const S> maps,
                                         const __grid_constant__ PooledOutputs<S> to) {
  using Numbers = Pack<S, kCount>;
  int k = 0;
  while (blockIdx.x >= to.end[k]) ++k;
  const int64_t block = blockIdx.x - (k > 0 ? to.end[k - 1] : 0);
  const int64_t i = block * blockDim.x + threadIdx.x;
  if (i >= pooling_items(a, to.bins[k], kCount)) return;
  const PoolingItem<T, kCount, kRows> item(a, to.bins[k], i);
  T sum[kCount] = {};
  if (item.has_samples()) {
    const S* map = maps.level[item.level];
    item.for_each_pixel(a, [&](int64_t place, T weight) {
      const Numbers x = *reinterpret_cast<const Numbers*>(map + place);
      for (int c = 0; c < kCount; ++c) sum[c] += weight * wide(x.value[c]);
    });
  }
  Numbers y;
  for (int c = 0; c < kCount; ++c) y.value[c] = narrow<S>(sum[c]);
  *reinterpret_cast<Numbers*>(to.out[k] + item.bin(a)) = y;
}

// A thread owns a bin of a RoI and kCount channels, and adds their gradient to every pixel of the
// bin. Bound by atomic additions in the L2.
template <typename S, typename T, int kCount, bool kRows, typename Sums>
__global__ void roi_align_backward_kernel(const __grid_constant__ RoiPooling<T> a, Bins bins,
                                          const S* grad, Sums sums,
                                          const __grid_constant__ Maps<typename Sums::Sum> maps) {
  using Numbers = Pack<S, kCount>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= pooling_items(a, bins, kCount)) return;
  const PoolingItem<T, kCount, kRows> item(a, bins, i);
  if (!item.has_samples()) return;
  const Numbers g = *reinterpret_cast<const Numbers*>(grad + item.bin(a));
  auto* map = maps.level[item.level];
  const auto terms = sums.terms();
  item.for_each_pixel(a, [&](int64_t place, T weight) {
    Pack<typename Sums::Sum, kCount> part;
    for (int c = 0; c < kCount; ++c) part.value[c] = terms.of(weight * wide(g.value[c]));
    add_to(map + place, part);
  });
}

// Whether kCount channels can be moved at once.
template <int kCount, typename S>
bool fits_packs(const S* data, int64_t channels) {
  return channels % kCount == 0 && reinterpret_cast<uintptr_t>(data) % sizeof(Pack<S, kCount>) == 0;
}

// features -> outputs; all with the channels innermost, or none.
template <typename S, typename T>
void launch_roi_align(Stream stream, const RoiPooling<T>& a, const Maps<const S>& maps,
                      PooledOutputs<S> to, bool rows) {
  constexpr int kWide = 16 / sizeof(S);
  bool wide = rows;
  for (int64_t k = 0; k < to.count; ++k) wide = wide && fits_packs<kWide>(to.out[k], a.channels);
  for (int64_t l = 0; l < a.rule.num_levels; ++l)
    wide = wide && fits_packs<kWide>(maps.level[l], a.channels);
  int64_t blocks = 0;
  for (int64_t k = 0; k < to.count; ++k) {
    blocks += ceil_divide(pooling_items(a, to.bins[k], wide ? kWide : 1), kPoolThreads);
    to.end[k] = blocks;
  }
  if (blocks == 0) return;
  const auto kernel = wide   ? roi_align_forward_kernel<S, T, kWide, true>
                      : rows ? roi_align_forward_kernel<S, T, 1, true>
                             : roi_align_forward_kernel<S, T, 1, false>;
  launch(stream, blocks, kPoolThreads, kernel, a, maps, to);
}

// grad [R, C, bins.y, bins.x] is added to the maps, which start as zeros.
template <typename S, typename T, typename Sums>
void launch_roi_align_backward(Stream stream, const RoiPooling<T>& a, const Bins& bins,
                               const S* grad, const Sums& sums,
                               const Maps<typename Sums::Sum>& maps, bool rows) {
  const bool wide = rows && fits_packs<4>(grad, a.channels);
  const int64_t blocks = ceil_divide(pooling_items(a, bins, wide ? 4 : 1), kPoolThreads);
  if (blocks == 0) return;
  const auto kernel = wide   ? roi_align_backward_kernel<S, T, 4, true, Sums>
                      : rows ? roi_align_backward_kernel<S, T, 1, true, Sums>
                             : roi_align_backward_kernel<S, T, 1, false, Sums>;
  launch(stream, blocks, kPoolThreads, kernel, a, bins, grad, sums, maps);
}

}  // namespace dynamask::cuda
