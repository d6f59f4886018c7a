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
#include <type_traits>
#include <variant>
#include <vector>

#include "cpu/images.h"
#include "cpu/scratch.h"
#include "cpu/simd/deform_conv2d.h"
#include "cpu/simd/gemm.h"
#include "cpu/tensor.h"
#include "ops/deform_conv2d.h"

namespace dynamask {

// Refuses shapes that do not fit together.
DeformConv2dShape checked_shape(const Tensor& input, const Tensor& offset, const Tensor& weight,
                                const std::optional<Tensor>& mask,
                                const std::vector<int64_t>& stride,
                                const std::vector<int64_t>& padding,
                                const std::vector<int64_t>& dilation);

// A contiguous range of the columns (tap, channel) of a weight group: whole taps, or a part of one.
struct ColumnChunk {
  int64_t first_tap, taps, first_channel, channels;  // channels counted within the group
  int64_t first_column;                              // in PackedWeight
  int64_t tap_columns;                               // the channels, and what fills up a pair

  int64_t columns() const { return taps * tap_columns; }
};

// All columns of a group in chunks of at most `limit` columns, if at all as many as one vector.
// With `interleaved` 2 (kInterleaved) each tap takes an even number of columns.
std::vector<ColumnChunk> column_chunks(const DeformConv2dShape& s, int64_t limit,
                                       int64_t interleaved = 1);

// The length of a row of columns in memory: whole panels, and one vector more, since `sample` may
// write too far. Never a power of two, so that rows do not fall on the same cache lines.
template <typename T>
int64_t columns_row(int64_t columns) {
  return round_up(columns, 32) + 64 / static_cast<int64_t>(sizeof(T));
}

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

// What the positions of the taps, their weights and sums of products are computed in.
template <typename T>
using Geometry = simd::Wide<T>;

// Offsets or masks: of type G, or of a narrower one that is widened tile by tile.
template <typename G>
struct PlanesOf {
  using type = std::variant<Images<const G>>;
};
template <>
struct PlanesOf<float> {
  using type =
      std::variant<Images<const float>, Images<const simd::BFloat16>, Images<const simd::Float16>>;
};
template <typename G>
using Planes = typename PlanesOf<G>::type;

// A tensor as read_planes takes it, of G (which is `dtype`) or narrower.
Tensor dense_planes(const Tensor& t, ScalarType dtype);

template <typename G>
Planes<G> read_planes(const Tensor& t) {
  if constexpr (std::is_same_v<G, float>) {
    if (t.scalar_type() == ScalarType::BFloat16) return read_images<simd::BFloat16>(t);
    if (t.scalar_type() == ScalarType::Half) return read_images<simd::Float16>(t);
  }
  return read_images<G>(t);
}

// A tile of pixels of every plane, as rows of pixels: in place, or copied.
template <typename G>
class PlanesTile {
 public:
  PlanesTile(const Planes<G>& planes, int64_t pixels)
      : planes_(planes),
        memory_(std::visit([&](auto& x) { return is_ready(x) ? 0 : x.channels; }, planes) *
                pixels) {}

  void start(int64_t n, int64_t first, int64_t pixels) {
    std::visit(
        [&](const auto& x) {
          const auto* from = x.image(n) + first * x.pixel_stride;
          if constexpr (std::is_same_v<decltype(from), const G*>) rows_ = from;
          row_ = is_ready(x) ? x.channel_stride : pixels;
          if (is_ready(x)) return;
          rows_ = memory_.data();
          using In = std::decay_t<decltype(*from)>;
          const auto& kernel = simd::transpose_kernels().of(In{}, G{});
          if (x.channels_last())
            kernel.run(from, x.channels, memory_.data(), row_, pixels, x.channels);
          else
            kernel.copy(from, x.channel_stride, memory_.data(), row_, x.channels, pixels);
        },
        planes_);
  }

  const G* row(int64_t plane) const { return rows_ + plane * row_; }

 private:
  template <typename In>
  static bool is_ready(const Images<const In>& x) {
    return std::is_same_v<In, G> && !x.channels_last();
  }

  const Planes<G> planes_;
  Scratch<G> memory_;
  const G* rows_ = nullptr;
  int64_t row_ = 0;
};

// The sampling kernel for images of type T.
template <typename T>
auto sample_kernel() {
  if constexpr (std::is_same_v<T, simd::BFloat16>)
    return simd::bf16_deform_conv2d_kernel()->sample;
  else
    return simd::deform_conv2d_kernels().of(T{}).sample;
}

// Finds out where the taps of one tile of output pixels read.
template <typename G>
class TapReader {
 public:
  TapReader(const DeformConv2dShape& s, const Planes<G>& offset,
            const std::optional<Planes<G>>& mask, int64_t tile_pixels)
      : s_(s),
        window_(2 * tile_pixels),
        pixel_(tile_pixels),
        weight_(4 * tile_pixels),
        offset_(offset, tile_pixels),
        mask_(mask ? std::make_unique<PlanesTile<G>>(*mask, tile_pixels) : nullptr) {
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
    G* window_y = window_.data();
    G* window_x = window_y + window_.size() / 2;
    for (int64_t p = 0; p < pixels; ++p) {
      window_y[p] = static_cast<G>(y * s_.stride_height - s_.padding_height);
      window_x[p] = static_cast<G>(x * s_.stride_width - s_.padding_width);
      if (++x == s_.out_width) x = 0, ++y;
    }
    offset_.start(n, first, pixels);
    if (mask_) mask_->start(n, first, pixels);
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
        f(tap_, reads_, plane, c, end - c, k * chunk.tap_columns + c - begin);
        c = end;
      }
    }
  }

  // Gathers a chunk into columns[pixels, row].
  template <typename T>
  void gather(const RingedImages<T>& images, int64_t slot, int64_t group, const ColumnChunk& chunk,
              T* columns, int64_t row) {
    const auto sample = sample_kernel<T>();
    // runs come in the order of their columns, so what one writes too far the next overwrites
    for_each_run(
        group, chunk, [&](auto& tap, auto& reads, auto, auto channel, auto n, auto column) {
          sample(reads, tap.pixels, images.channels(slot, channel, n), columns + column, row);
        });
    for (int64_t c = chunk.channels; c < chunk.tap_columns; ++c)
      for (int64_t k = 0; k < chunk.taps; ++k)
        for (int64_t p = 0; p < tap_.pixels; ++p)
          columns[p * row + k * chunk.tap_columns + c] = T{};
  }

 private:
  void locate(int64_t plane, int64_t k) {
    tap_.tap_y = static_cast<G>(k / s_.kernel_width * s_.dilation_height);
    tap_.tap_x = static_cast<G>(k % s_.kernel_width * s_.dilation_width);
    tap_.offset_y = offset_.row(2 * plane);
    tap_.offset_x = offset_.row(2 * plane + 1);
    tap_.mask = mask_ ? mask_->row(plane) : nullptr;
    simd::deform_conv2d_kernels().of(G{}).locate(tap_, reads_);
  }

  const DeformConv2dShape s_;
  Scratch<G> window_;
  Scratch<int32_t> pixel_;
  Scratch<G> weight_;
  PlanesTile<G> offset_;
  std::unique_ptr<PlanesTile<G>> mask_;
  simd::DeformTap<G> tap_{};
  simd::DeformReads<G> reads_{};
};

}  // namespace dynamask
