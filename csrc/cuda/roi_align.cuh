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
constexpr int kPoolThreads = 256;

// A pyramid, boxes on it and the bins they are cut into. T is the type of the geometry and sums.
template <typename T>
struct RoiPooling {
  const T* boxes;  // [R, 5]
  int64_t rois, batch, channels;
  int64_t bins_y, bins_x;
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

// What one thread works on: a bin of a RoI, and kCount channels of it. With the channels innermost
// ("rows") neighbouring threads take neighbouring channels, else neighbouring bins.
template <typename T, int kCount, bool kRows>
struct PoolingItem {
  int64_t roi, bin_y, bin_x, channel;
  int64_t level = -1, image;
  RoiAxis<T> y, x;

  DYNAMASK_HOST_DEVICE PoolingItem(const RoiPooling<T>& a, int64_t i) {
    const int64_t packs = a.channels / kCount;
    if (kRows) channel = i % packs * kCount, i /= packs;
    bin_x = i % a.bins_x, i /= a.bins_x;
    bin_y = i % a.bins_y, i /= a.bins_y;
    if (!kRows) channel = i % packs * kCount, i /= packs;
    roi = i;
    const T* box = a.boxes + 5 * roi;
    image = roi_batch_index(box[0], a.batch);
    if (image < 0) return;
    level = a.rule.level_of(box[3] - box[1], box[4] - box[2]);
    if (level < 0) return;
    y = axis(a, box[2], box[4], a.bins_y, a.heights[level]);
    x = axis(a, box[1], box[3], a.bins_x, a.widths[level]);
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
    return kRows ? ((roi * a.bins_y + bin_y) * a.bins_x + bin_x) * a.channels + channel
                 : ((roi * a.channels + channel) * a.bins_y + bin_y) * a.bins_x + bin_x;
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
DYNAMASK_HOST_DEVICE int64_t pooling_items(const RoiPooling<T>& a, int count) {
  return a.rois * a.bins_y * a.bins_x * (a.channels / count);
}

// A thread owns a bin of a RoI and kCount channels, 16 bytes if they are innermost. Bound by the
// L1 and L2 reads of the pixels under the boxes.
template <typename S, typename T, int kCount, bool kRows>
__global__ void roi_align_forward_kernel(const __grid_constant__ RoiPooling<T> a,
                                         const __grid_constant__ Maps<const S> maps, S* out) {
  using Numbers = Pack<S, kCount>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= pooling_items(a, kCount)) return;
  const PoolingItem<T, kCount, kRows> item(a, i);
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
  *reinterpret_cast<Numbers*>(out + item.bin(a)) = y;
}

// A thread owns a bin of a RoI and kCount channels, and adds their gradient to every pixel of the
// bin. Bound by atomic additions in the L2.
template <typename S, typename T, int kCount, bool kRows, typename Sums>
__global__ void roi_align_backward_kernel(const __grid_constant__ RoiPooling<T> a, const S* grad,
                                          Sums sums,
                                          const __grid_constant__ Maps<typename Sums::Sum> maps) {
  using Numbers = Pack<S, kCount>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= pooling_items(a, kCount)) return;
  const PoolingItem<T, kCount, kRows> item(a, i);
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

// Whether 16 bytes of channels can be moved at once.
template <typename S>
bool fits_packs(const S* data, int64_t channels) {
  return channels % (16 / sizeof(S)) == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// features -> out [R, C, bins_y, bins_x]; all with the channels innermost, or none.
template <typename S, typename T>
void launch_roi_align(Stream stream, const RoiPooling<T>& a, const Maps<const S>& maps, S* out,
                      bool rows) {
  constexpr int kWide = 16 / sizeof(S);
  bool wide = rows && fits_packs(out, a.channels);
  for (int64_t l = 0; l < a.rule.num_levels; ++l)
    wide = wide && fits_packs(maps.level[l], a.channels);
  const auto blocks = [&](int count) {
    return dim3(ceil_divide(pooling_items(a, count), kPoolThreads));
  };
  if (wide)
    launch(stream, blocks(kWide), kPoolThreads, roi_align_forward_kernel<S, T, kWide, true>, a,
           maps, out);
  else if (rows)
    launch(stream, blocks(1), kPoolThreads, roi_align_forward_kernel<S, T, 1, true>, a, maps, out);
  else
    launch(stream, blocks(1), kPoolThreads, roi_align_forward_kernel<S, T, 1, false>, a, maps, out);
}

// grad [R, C, bins_y, bins_x] is added to the maps, which start as zeros.
template <typename S, typename T, typename Sums>
void launch_roi_align_backward(Stream stream, const RoiPooling<T>& a, const S* grad,
                               const Sums& sums, const Maps<typename Sums::Sum>& maps, bool rows) {
  const bool wide = rows && a.channels % 4 == 0 && reinterpret_cast<uintptr_t>(grad) % 16 == 0;
  const auto blocks = [&](int count) {
    return dim3(ceil_divide(pooling_items(a, count), kPoolThreads));
  };
  if (wide)
    launch(stream, blocks(4), kPoolThreads, roi_align_backward_kernel<S, T, 4, true, Sums>, a, grad,
           sums, maps);
  else if (rows)
    launch(stream, blocks(1), kPoolThreads, roi_align_backward_kernel<S, T, 1, true, Sums>, a, grad,
           sums, maps);
  else
    launch(stream, blocks(1), kPoolThreads, roi_align_backward_kernel<S, T, 1, false, Sums>, a,
           grad, sums, maps);
}

// A pixel gets at most one term from each bin.
template <typename T>
int bits_of_fixed_sums(const RoiPooling<T>& a) {
  return bits_of_fixed_sums(a.rois * a.bins_y * a.bins_x);
}

}  // namespace dynamask::cuda
