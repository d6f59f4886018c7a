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

// Where a channel of a pixel lies in the map of its level.
template <bool kRows, typename T>
DYNAMASK_HOST_DEVICE int64_t map_place(const RoiPooling<T>& a, int64_t level, int64_t image,
                                       int64_t y, int64_t x, int64_t channel) {
  const int64_t height = a.heights[level], width = a.widths[level];
  return kRows ? ((image * height + y) * width + x) * a.channels + channel
               : ((image * a.channels + channel) * height + y) * width + x;
}

// Pooled features [R, C, bins.y, bins.x] of several sizes, and the block after the last of each.
template <typename S>
struct PooledOutputs {
  int64_t count;
  Bins bins[kMaxOutputs];
  S* out[kMaxOutputs];
  int64_t end[kMaxOutputs];

  void add(const Bins& size, S* to) { bins[count] = size, out[count] = to, ++count; }
};

// Where a box lies: on which map, and its bins along both axes of that.
template <typename T>
struct PlacedBox {
  int64_t level = -1, image;
  RoiAxis<T> y, x;

  DYNAMASK_HOST_DEVICE PlacedBox(const RoiPooling<T>& a, const Bins& bins, int64_t roi) {
    const T* box = a.boxes + 5 * roi;
    image = roi_batch_index(box[0], a.batch);
    if (image < 0) return;
    level = a.rule.level_of(box[3] - box[1], box[4] - box[2]);
    if (level < 0) return;
    const T scale = a.scales[level];
    y = roi_axis<T>(box[2], box[4], scale, bins.y, a.heights[level], a.sampling_ratio, a.aligned);
    x = roi_axis<T>(box[1], box[3], scale, bins.x, a.widths[level], a.sampling_ratio, a.aligned);
  }

  DYNAMASK_HOST_DEVICE bool has_samples() const { return level >= 0 && y.grid > 0 && x.grid > 0; }
  DYNAMASK_HOST_DEVICE T average() const { return T(1) / (T(y.grid) * T(x.grid)); }
};

// What one thread works on: a bin of a RoI, and kCount channels of it. With the channels innermost
// ("rows") neighbouring threads take neighbouring channels, else neighbouring bins.
template <typename T, int kCount, bool kRows>
struct PoolingItem {
  int64_t roi, bin_y, bin_x, channel;

  DYNAMASK_HOST_DEVICE PoolingItem(const RoiPooling<T>& a, const Bins& bins, int64_t i) {
    const int64_t packs = a.channels / kCount;
    if (kRows) channel = i % packs * kCount, i /= packs;
    bin_x = i % bins.x, i /= bins.x;
    bin_y = i % bins.y, i /= bins.y;
    if (!kRows) channel = i % packs * kCount, i /= packs;
    roi = i;
  }
  DYNAMASK_HOST_DEVICE PoolingItem(int64_t roi, int64_t bin_y, int64_t bin_x, int64_t channel)
      : roi(roi), bin_y(bin_y), bin_x(bin_x), channel(channel) {}

  // Where the channels lie in [R, C, bins.y, bins.x].
  DYNAMASK_HOST_DEVICE int64_t place(const RoiPooling<T>& a, const Bins& bins) const {
    return kRows ? ((roi * bins.y + bin_y) * bins.x + bin_x) * a.channels + channel
                 : ((roi * a.channels + channel) * bins.y + bin_y) * bins.x + bin_x;
  }

  // Calls f(place in the map, weight) for every pixel of the bin.
  template <typename F>
  DYNAMASK_HOST_DEVICE void for_each_pixel(const RoiPooling<T>& a, const PlacedBox<T>& box,
                                           F f) const {
    const T average = box.average();
    for_each_tap(box.y, bin_y, [&](int64_t y, T weight_y) {
      for_each_tap(box.x, bin_x, [&](int64_t x, T weight_x) {
        f(map_place<kRows>(a, box.level, box.image, y, x, channel), weight_y * weight_x * average);
      });
    });
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
  const PlacedBox<T> box(a, to.bins[k], item.roi);
  T sum[kCount] = {};
  if (box.has_samples()) {
    const S* map = maps.level[box.level];
    item.for_each_pixel(a, box, [&](int64_t place, T weight) {
      const Numbers x = *reinterpret_cast<const Numbers*>(map + place);
      for (int c = 0; c < kCount; ++c) sum[c] = fma(weight, wide(x.value[c]), sum[c]);
    });
  }
  Numbers y;
  for (int c = 0; c < kCount; ++c) y.value[c] = narrow<S>(sum[c]);
  *reinterpret_cast<Numbers*>(to.out[k] + item.place(a, to.bins[k])) = y;
}

// A thread owns a bin of a RoI and kCount channels, and adds their gradient to every pixel of the
// bin, in whatever order. Bound by atomic additions in the L2.
template <typename S, typename T, int kCount, bool kRows>
__global__ void roi_align_scatter_kernel(const __grid_constant__ RoiPooling<T> a, Bins bins,
                                         const S* grad, const __grid_constant__ Maps<T> maps) {
  using Numbers = Pack<S, kCount>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= pooling_items(a, bins, kCount)) return;
  const PoolingItem<T, kCount, kRows> item(a, bins, i);
  const PlacedBox<T> box(a, bins, item.roi);
  if (!box.has_samples()) return;
  const Numbers g = *reinterpret_cast<const Numbers*>(grad + item.place(a, bins));
  T* map = maps.level[box.level];
  item.for_each_pixel(a, box, [&](int64_t place, T weight) {
    Pack<T, kCount> part;
    for (int c = 0; c < kCount; ++c) part.value[c] = weight * wide(g.value[c]);
    add_to(map + place, part);
  });
}

constexpr int kTile = 8;  // pixels a side
constexpr int kGatherThreads = 256;
constexpr int kPacksOfTile = kGatherThreads / (kTile * kTile);  // of channels

// The maps of all levels as tiles of some channels: the block after the last of each level.
struct MapTiles {
  int64_t end[kMaxLevels];
};

struct BinRange {
  int64_t begin, end;
};

// The bins that can have a sample less than one pixel away from the pixels `low` to `high`; at most
// a few too many.
template <typename T>
DYNAMASK_HOST_DEVICE BinRange bins_near(const RoiAxis<T>& axis, int64_t low, int64_t high) {
  if (!(axis.bin_size > T(1e-3))) return {0, axis.bins};  // or turned round
  const T begin = floor((T(low - 1) - axis.start) / axis.bin_size) - 1;
  const T end = floor((T(high + 1) - axis.start) / axis.bin_size) + 2;
  const auto bin = [&](T x) {
    return x > 0 ? x < T(axis.bins) ? static_cast<int64_t>(x) : axis.bins : int64_t{0};
  };
  return {bin(begin), bin(end)};
}

// The weight of one pixel in one bin of an axis, as for_each_tap() has it.
template <typename T>
DYNAMASK_HOST_DEVICE T weight_of(const RoiAxis<T>& axis, int64_t bin, int64_t pixel) {
  T weight = 0;
  for_each_tap(axis, bin, [&](int64_t at, T part) { weight += at == pixel ? part : T(0); });
  return weight;
}

// A block owns a tile of one map and some channels, a thread kCount channels of one pixel: it adds
// up, RoI after RoI and bin after bin, what reaches that pixel, so that the order is always the
// same. Bound by finding the weights anew for each pixel.
template <typename S, typename T, int kCount, bool kRows>
__global__ void roi_align_gather_kernel(const __grid_constant__ RoiPooling<T> a, Bins bins,
                                        const S* grad, const __grid_constant__ Maps<T> maps,
                                        const __grid_constant__ MapTiles tiles) {
  __shared__ bool reaches[kGatherThreads];
  int64_t level = 0;
  while (blockIdx.x >= tiles.end[level]) ++level;
  int64_t i = blockIdx.x - (level > 0 ? tiles.end[level - 1] : 0);
  const int64_t height = a.heights[level], width = a.widths[level];
  const int64_t tiles_y = (height + kTile - 1) / kTile, tiles_x = (width + kTile - 1) / kTile;
  const int64_t first_x = i % tiles_x * kTile, first_y = i / tiles_x % tiles_y * kTile;
  i /= tiles_x * tiles_y;
  const int64_t image = i % a.batch, packs = i / a.batch * kPacksOfTile;

  const int t = threadIdx.x;
  const int pixel = kRows ? t / kPacksOfTile : t % (kTile * kTile);
  const int pack = kRows ? t % kPacksOfTile : t / (kTile * kTile);
  const int64_t y = first_y + pixel / kTile, x = first_x + pixel % kTile;
  const int64_t channel = (packs + pack) * kCount;
  const bool exists = y < height && x < width && channel < a.channels;
  T sum[kCount] = {};
  for (int64_t first = 0; first < a.rois; first += kGatherThreads) {
    reaches[t] = false;
    if (first + t < a.rois) {
      const PlacedBox<T> box(a, bins, first + t);
      if (box.has_samples() && box.level == level && box.image == image) {
        const BinRange v = bins_near(box.y, first_y, first_y + kTile - 1);
        const BinRange u = bins_near(box.x, first_x, first_x + kTile - 1);
        reaches[t] = v.begin < v.end && u.begin < u.end;
      }
    }
    __syncthreads();
    for (int j = 0; exists && j < kGatherThreads; ++j) {
      if (!reaches[j]) continue;
      const PlacedBox<T> box(a, bins, first + j);
      const BinRange v = bins_near(box.y, y, y), u = bins_near(box.x, x, x);
      for (int64_t bin_y = v.begin; bin_y < v.end; ++bin_y) {
        const T weight_y = weight_of(box.y, bin_y, y);
        for (int64_t bin_x = u.begin; weight_y > 0 && bin_x < u.end; ++bin_x) {
          const T weight = weight_y * weight_of(box.x, bin_x, x) * box.average();
          if (!(weight > 0)) continue;
          const PoolingItem<T, kCount, kRows> item(first + j, bin_y, bin_x, channel);
          const auto g = *reinterpret_cast<const Pack<S, kCount>*>(grad + item.place(a, bins));
          for (int c = 0; c < kCount; ++c) sum[c] = fma(weight, wide(g.value[c]), sum[c]);
        }
      }
    }
    __syncthreads();
  }
  if (!exists) return;
  Pack<T, kCount> out;
  for (int c = 0; c < kCount; ++c) out.value[c] = sum[c];
  *reinterpret_cast<Pack<T, kCount>*>(maps.level[level] +
                                      map_place<kRows>(a, level, image, y, x, channel)) = out;
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
template <typename S, typename T>
void launch_roi_align_scatter(Stream stream, const RoiPooling<T>& a, const Bins& bins,
                              const S* grad, const Maps<T>& maps, bool rows) {
  const bool wide = rows && fits_packs<4>(grad, a.channels);
  const int64_t blocks = ceil_divide(pooling_items(a, bins, wide ? 4 : 1), kPoolThreads);
  if (blocks == 0) return;
  const auto kernel = wide   ? roi_align_scatter_kernel<S, T, 4, true>
                      : rows ? roi_align_scatter_kernel<S, T, 1, true>
                             : roi_align_scatter_kernel<S, T, 1, false>;
  launch(stream, blocks, kPoolThreads, kernel, a, bins, grad, maps);
}

// The same, added up in a fixed order; the maps are overwritten.
template <typename S, typename T>
void launch_roi_align_gather(Stream stream, const RoiPooling<T>& a, const Bins& bins, const S* grad,
                             const Maps<T>& maps, bool rows) {
  const bool wide = rows && fits_packs<4>(grad, a.channels);
  const int64_t chunks = ceil_divide(a.channels, kPacksOfTile * (wide ? 4 : 1));
  MapTiles tiles{};
  int64_t blocks = 0;
  for (int64_t l = 0; l < a.rule.num_levels; ++l) {
    blocks += ceil_divide(a.heights[l], kTile) * ceil_divide(a.widths[l], kTile) * a.batch * chunks;
    tiles.end[l] = blocks;
  }
  if (blocks == 0) return;
  const auto kernel = wide   ? roi_align_gather_kernel<S, T, 4, true>
                      : rows ? roi_align_gather_kernel<S, T, 1, true>
                             : roi_align_gather_kernel<S, T, 1, false>;
  launch(stream, blocks, kGatherThreads, kernel, a, bins, grad, maps, tiles);
}

}  // namespace dynamask::cuda
