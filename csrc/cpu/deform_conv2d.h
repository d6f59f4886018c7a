// What the forward and the backward kernel of deform_conv2d share on the CPU.
//
// Both turn the convolution into small matrix products that stay in cache. For a tile of output
// pixels and a chunk of the columns (tap, channel) of one weight group they gather
//
//   columns[p, (k, c)] = mask * input[c] at where tap k of pixel p reads        [pixels, columns]
//
// and multiply. Nothing larger than a tile is ever stored.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "cpu/scratch.h"
#include "cpu/simd/deform_conv2d.h"
#include "cpu/simd/gemm.h"
#include "cpu/simd/transpose.h"
#include "cpu/tensor.h"
#include "ops/deform_conv2d.h"

namespace dynamask {

// Refuses shapes that do not fit together.
DeformConv2dShape deform_conv2d_shape(const Tensor& input, const Tensor& offset,
                                      const Tensor& weight, const std::optional<Tensor>& mask,
                                      const std::vector<int64_t>& stride,
                                      const std::vector<int64_t>& padding,
                                      const std::vector<int64_t>& dilation);

// The same tensor, in `dtype`, copied if it is neither contiguous nor channels_last.
Tensor dense_images(const Tensor& t, ScalarType dtype);

// Uninitialised, [n, c, h, w], channels_last or contiguous.
Tensor empty_images(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w,
                    bool channels_last);

// A tensor of dense_images.
template <typename T>
struct Images {
  T* data;
  int64_t channels, height, width;
  int64_t channel_stride, pixel_stride;

  Images(T* data, const Tensor& t)
      : data(data), channels(t.size(1)), height(t.size(2)), width(t.size(3)) {
    const bool rows = is_channels_last(t);
    channel_stride = rows ? 1 : height * width;
    pixel_stride = rows ? channels : 1;
  }
  int64_t pixels() const { return height * width; }
  T* image(int64_t n) const { return data + n * channels * pixels(); }
  bool channels_last() const { return pixel_stride != 1; }
};

template <typename T>
Images<const T> read_images(const Tensor& t) {
  return {t.const_data_ptr<T>(), t};
}
template <typename T>
Images<T> write_images(const Tensor& t) {
  return {t.mutable_data_ptr<T>(), t};
}

// Images [height + 2, width + 2, channels] with a ring of zeros, so that all four neighbours of a
// position can be read without asking where it is. Below each lies one more row of zeros, since
// positions outside are moved to row `height` or column `width` (whose right neighbour is the left
// end of the next row).
template <typename T>
class RingedImages {
 public:
  RingedImages(const DeformConv2dShape& s, int64_t count)
      : channels_(s.channels),
        row_((s.width + 2) * s.channels),
        image_((s.height + 3) * row_),
        height_(s.height),
        width_(s.width),
        memory_(count * image_ + channels_ + kSlack) {
    memory_.fill_with_zeros();
  }

  void fill_with_zeros(int64_t slot) { std::fill_n(memory_.data() + slot * image_, image_, T(0)); }

  void copy_row_from(const Images<const T>& images, int64_t n, int64_t slot, int64_t y) {
    const T* from = images.image(n) + y * width_ * images.pixel_stride;
    T* to = first_pixel(slot) + y * row_;
    if (images.channels_last())
      std::copy_n(from, width_ * channels_, to);
    else
      simd::transpose_kernels().of(T(0)).run(from, images.channel_stride, to, channels_, channels_,
                                             width_);
  }

  void copy_row_to(const Images<T>& images, int64_t n, int64_t slot, int64_t y) {
    const T* from = first_pixel(slot) + y * row_;
    T* to = images.image(n) + y * width_ * images.pixel_stride;
    if (images.channels_last())
      std::copy_n(from, width_ * channels_, to);
    else
      simd::transpose_kernels().of(T(0)).run(from, channels_, to, images.channel_stride, width_,
                                             channels_);
  }

  simd::DeformImage<T> channels(int64_t slot, int64_t channel, int64_t count) {
    return {memory_.data() + slot * image_ + channel, row_, channels_, count};
  }
  simd::DeformImage<const T> channels(int64_t slot, int64_t channel, int64_t count) const {
    return {memory_.data() + slot * image_ + channel, row_, channels_, count};
  }

 private:
  static constexpr int64_t kSlack = 16;  // a vector may begin at the last channel

  T* first_pixel(int64_t slot) { return memory_.data() + slot * image_ + row_ + channels_; }

  int64_t channels_, row_, image_, height_, width_;
  Scratch<T> memory_;
};

// A contiguous range of the columns (tap, channel) of a weight group: whole taps, or a part of one.
struct ColumnChunk {
  int64_t first_tap, taps, first_channel, channels;  // channels counted within the group

  int64_t first(const DeformConv2dShape& s) const {
    return first_tap * s.group_channels() + first_channel;
  }
  int64_t columns() const { return taps * channels; }
};

// All columns of a group in chunks of at most `limit` columns, if at all as many as one vector.
std::vector<ColumnChunk> column_chunks(const DeformConv2dShape& s, int64_t limit);

// The length of a row of columns in memory: whole panels, and one vector more, since `sample` may
// write too far. Never a power of two, so that rows do not fall on the same cache lines.
inline int64_t columns_row(int64_t columns) { return round_up(columns, 32) + 16; }

// Tiles of output pixels of one image, all of about the same size.
struct PixelTiles {
  int64_t pixels, size, count;

  PixelTiles(int64_t pixels, int64_t limit) : pixels(pixels) {
    const int64_t wanted = std::max<int64_t>(1, (pixels + limit - 1) / limit);
    size = round_up((pixels + wanted - 1) / wanted, 12);  // whole blocks of rows of the product
    count = (pixels + size - 1) / size;
  }
  int64_t begin(int64_t tile) const { return tile * size; }
  int64_t length(int64_t tile) const { return std::min(size, pixels - begin(tile)); }
};

// Finds out where the taps of one tile of output pixels read.
template <typename T>
class TapReader {
 public:
  TapReader(const DeformConv2dShape& s, const Images<const T>& offset,
            const std::optional<Images<const T>>& mask, int64_t tile_pixels)
      : s_(s),
        offset_(offset),
        mask_(mask),
        window_(2 * tile_pixels),
        pixel_(tile_pixels),
        weight_(4 * tile_pixels),
        planes_(offset.channels_last() ? offset.channels * tile_pixels : 0),
        mask_planes_(mask && mask->channels_last() ? mask->channels * tile_pixels : 0) {
    tap_.height = static_cast<int32_t>(s.height);
    tap_.width = static_cast<int32_t>(s.width);
    tap_.window_y = window_.data();
    tap_.window_x = window_.data() + tile_pixels;
    reads_.pixel = pixel_.data();
    for (int i = 0; i < 4; ++i) reads_.weight[i] = weight_.data() + i * tile_pixels;
  }

  // Turns to pixels [first, first + pixels) of image n.
  void start(int64_t n, int64_t first, int64_t pixels) {
    tap_.pixels = pixels;
    int64_t y = first / s_.out_width, x = first % s_.out_width;
    T* window_y = window_.data();
    T* window_x = window_y + window_.size() / 2;
    for (int64_t p = 0; p < pixels; ++p) {
      window_y[p] = static_cast<T>(y * s_.stride_height - s_.padding_height);
      window_x[p] = static_cast<T>(x * s_.stride_width - s_.padding_width);
      if (++x == s_.out_width) x = 0, ++y;
    }
    offset_plane_ = planes_of(offset_, n, first, pixels, planes_.data(), &offset_stride_);
    if (mask_)
      mask_plane_ = planes_of(*mask_, n, first, pixels, mask_planes_.data(), &mask_stride_);
  }

  // Calls f(tap, reads, plane, channel, channels, column) for every run of channels of a chunk that
  // share an offset: `plane` counts (offset group, tap), `column` from the start of the chunk.
  template <typename F>
  void for_each_run(int64_t group, const ColumnChunk& chunk, F&& f) {
    for (int64_t k = 0; k < chunk.taps; ++k) {
      const int64_t begin = group * s_.group_channels() + chunk.first_channel;
      for (int64_t c = begin; c < begin + chunk.channels;) {
        const int64_t g = c / s_.offset_group_channels();
        const int64_t end = std::min(begin + chunk.channels, (g + 1) * s_.offset_group_channels());
        const int64_t plane = g * s_.taps() + chunk.first_tap + k;
        locate(plane, chunk.first_tap + k);
        f(tap_, reads_, plane, c, end - c, k * chunk.channels + c - begin);
        c = end;
      }
    }
  }

  // Gathers a chunk into columns[pixels, row].
  void gather(const RingedImages<T>& images, int64_t slot, int64_t group, const ColumnChunk& chunk,
              T* columns, int64_t row) {
    const auto& kernel = simd::deform_conv2d_kernels().of(T(0));
    // runs come in the order of their columns, so what one writes too far the next overwrites
    for_each_run(group, chunk,
                 [&](auto& tap, auto& reads, auto, auto channel, auto n, auto column) {
                   kernel.sample(reads, tap.pixels, images.channels(slot, channel, n),
                                 columns + column, row);
                 });
  }

 private:
  // A tile of every channel as rows of pixels: in place, or transposed into `memory`.
  static const T* planes_of(const Images<const T>& images, int64_t n, int64_t first, int64_t pixels,
                            T* memory, int64_t* stride) {
    const T* from = images.image(n) + first * images.pixel_stride;
    *stride = images.channels_last() ? pixels : images.channel_stride;
    if (!images.channels_last()) return from;
    simd::transpose_kernels().of(T(0)).run(from, images.channels, memory, pixels, pixels,
                                           images.channels);
    return memory;
  }

  void locate(int64_t plane, int64_t k) {
    tap_.tap_y = static_cast<T>(k / s_.kernel_width * s_.dilation_height);
    tap_.tap_x = static_cast<T>(k % s_.kernel_width * s_.dilation_width);
    tap_.offset_y = offset_plane_ + 2 * plane * offset_stride_;
    tap_.offset_x = tap_.offset_y + offset_stride_;
    tap_.mask = mask_ ? mask_plane_ + plane * mask_stride_ : nullptr;
    simd::deform_conv2d_kernels().of(T(0)).locate(tap_, reads_);
  }

  const DeformConv2dShape s_;
  const Images<const T> offset_;
  const std::optional<Images<const T>> mask_;
  Scratch<T> window_;
  Scratch<int32_t> pixel_;
  Scratch<T> weight_, planes_, mask_planes_;
  const T *offset_plane_ = nullptr, *mask_plane_ = nullptr;
  int64_t offset_stride_ = 0, mask_stride_ = 0;
  simd::DeformTap<T> tap_{};
  simd::DeformReads<T> reads_{};
};

}  // namespace dynamask
