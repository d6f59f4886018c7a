// Where the taps of output pixels read, and the columns gathered there: what the forward and the
// backward kernels of deform_conv2d share.

#pragma once

#include "cuda/storage.h"
#include "cuda/tile_product.h"
#include "ops/deform_conv2d.h"

namespace dynamask::cuda {

// A number per plane and output pixel, [N, planes, Ho, Wo] of any strides.
template <typename T>
struct PixelPlanes {
  T* data;
  int64_t image, plane, row, column;
};

struct OutPixel {
  int64_t image, y, x;

  DYNAMASK_HOST_DEVICE OutPixel(const DeformConv2dShape& s, int64_t pixel)
      : image(pixel / s.out_pixels()),
        y(pixel % s.out_pixels() / s.out_width),
        x(pixel % s.out_width) {}

  template <typename T>
  DYNAMASK_HOST_DEVICE T& of(const PixelPlanes<T>& planes, int64_t plane) const {
    return planes
        .data[image * planes.image + plane * planes.plane + y * planes.row + x * planes.column];
  }
};

// What is convolved. S is the type of the features, T that of positions and sums.
template <typename S, typename T>
struct DeformInput {
  DeformConv2dShape shape;
  const S* features;  // [N, H, W, C]
  bool packed;        // whether four channels from a multiple of four on can be moved at once
  PixelPlanes<const T> offset, mask;  // a mask without data is all ones

  DYNAMASK_HOST_DEVICE int64_t pixels() const { return shape.batch * shape.out_pixels(); }

  DYNAMASK_HOST_DEVICE DeformSample<T> sample(const OutPixel& p, int64_t offset_group,
                                              int64_t tap) const {
    const DeformConv2dShape& s = shape;
    const int64_t plane = 2 * (offset_group * s.taps() + tap);
    const int64_t i = tap / s.kernel_width, j = tap % s.kernel_width;
    const int64_t y = p.y * s.stride_height - s.padding_height + i * s.dilation_height;
    const int64_t x = p.x * s.stride_width - s.padding_width + j * s.dilation_width;
    return {static_cast<int32_t>(s.height), static_cast<int32_t>(s.width),
            T(y) + p.of(offset, plane), T(x) + p.of(offset, plane + 1)};
  }
  DYNAMASK_HOST_DEVICE T mask_of(const OutPixel& p, int64_t offset_group, int64_t tap) const {
    return mask.data ? p.of(mask, offset_group * shape.taps() + tap) : T(1);
  }

  // The next `count` of at most four channels of a pixel of all [N, H, W]; zeros after them.
  DYNAMASK_HOST_DEVICE Pack<T, 4> channels(int64_t pixel, int channel, int count) const {
    const S* from = features + pixel * shape.channels + channel;
    Pack<T, 4> out{};
    if (packed && count > 0) {
      const auto four = *reinterpret_cast<const Pack<S, 4>*>(from);
      for (int c = 0; c < 4; ++c) out.value[c] = wide(four.value[c]);
    } else {
      for (int c = 0; c < 4; ++c)
        if (c < count) out.value[c] = wide(from[c]);
    }
    return out;
  }
};

// Whether DeformInput may be `packed`.
template <typename S>
bool fits_packs_of_four(const S* features, const DeformConv2dShape& s) {
  return reinterpret_cast<uintptr_t>(features) % (4 * sizeof(S)) == 0 &&
         s.group_channels() % 4 == 0 && s.offset_group_channels() % 4 == 0;
}

// Where one tap of one output pixel reads, in shared memory.
template <typename T>
struct TapRead {
  int64_t pixel;  // (y, x) of the sample among all [N, H, W]; it may itself lie outside
  T weight[4];    // of (y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)
  T mask;
  uint32_t exists;  // a bit for each of them that lies on the image

  // Calls f(i, pixel) for those.
  template <typename F>
  DYNAMASK_HOST_DEVICE void for_each_neighbour(const DeformConv2dShape& s, F f) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (exists >> i & 1) f(i, pixel + i / 2 * s.width + i % 2);
  }
};

// What pixel number `pixel` reads; nothing if there is no such pixel.
template <typename S, typename T>
DYNAMASK_HOST_DEVICE TapRead<T> tap_read(const DeformInput<S, T>& a, int64_t pixel,
                                         int64_t offset_group, int64_t tap) {
  if (pixel >= a.pixels()) return {};
  const OutPixel p(a.shape, pixel);
  const auto s = a.sample(p, offset_group, tap);
  const int64_t height = a.shape.height, width = a.shape.width;
  const bool top = 0 <= s.y && s.y < height, bottom = s.y + 1 < height;
  const bool left = 0 <= s.x && s.x < width, right = s.x + 1 < width;
  const uint32_t exists =
      (top && left) | (top && right) << 1 | (bottom && left) << 2 | (bottom && right) << 3;
  return {(p.image * height + s.y) * width + s.x,
          {s.top_left(), s.top_right(), s.bottom_left(), s.bottom_right()},
          a.mask_of(p, offset_group, tap),
          exists};
}

// columns[p * pitch + c / 4].value[c % 4] = channel `channel` + c of what read p reads, for kPixels
// reads and kChannels channels; zeros from `count` channels on.
template <int kPixels, int kChannels, typename S, typename T>
__device__ void gather_columns(const DeformInput<S, T>& a, const TapRead<T>* reads, int channel,
                               int count, Pack<T, 4>* columns, int pitch) {
  constexpr int kPacks = kChannels / 4;
  for (int i = threadIdx.x; i < kPixels * kPacks; i += kTileThreads) {
    const int p = i / kPacks, c = i % kPacks * 4;
    const TapRead<T>& read = reads[p];
    Pack<T, 4> sum{};
    read.for_each_neighbour(a.shape, [&](int corner, int64_t pixel) {
      const auto x = a.channels(pixel, channel + c, count - c);
      for (int e = 0; e < 4; ++e) sum.value[e] = fma(read.weight[corner], x.value[e], sum.value[e]);
    });
    for (int e = 0; e < 4; ++e) sum.value[e] *= read.mask;
    columns[p * pitch + c / 4] = sum;
  }
}

}  // namespace dynamask::cuda
