// The parts that the kernel of feature_aggregation is made of.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/deform_conv2d.h"
#include "cpu/packed_weight.h"
#include "cpu/roi_taps.h"
#include "cpu/simd/feature_aggregation.h"

namespace dynamask {

// The kernels for images of type T.
template <typename T>
const simd::FeatureAggregationKernel<T>& feature_aggregation_kernel() {
  if constexpr (std::is_same_v<T, simd::BFloat16>)
    return *simd::bf16_feature_aggregation_kernel();
  else
    return simd::feature_aggregation_kernels().of(T{});
}

// The shape of a convolution of 1x1 or 3x3 that keeps the size.
inline DeformConv2dShape convolution_shape(const Tensor& weight, int64_t height, int64_t width,
                                           int64_t offset_groups = 1) {
  const int64_t kernel = weight.size(2);
  DeformConv2dShape s{};
  s.batch = s.groups = s.stride_height = s.stride_width = 1;
  s.dilation_height = s.dilation_width = 1;
  s.channels = weight.size(1), s.out_channels = weight.size(0);
  s.height = s.out_height = height, s.width = s.out_width = width;
  s.kernel_height = s.kernel_width = kernel;
  s.padding_height = s.padding_width = kernel / 2;
  s.offset_groups = offset_groups;
  return s;
}

// Weights of type T as the matrix product reads them.
template <typename T, typename G = Geometry<T>>
struct Convolution {
  const DeformConv2dShape shape;
  const int64_t out_row;  // numbers of one pixel, in whole panels
  const PackedWeight<T> weight;
  Scratch<G> bias;

  Convolution(const Tensor& w, const Tensor* b, int64_t height, int64_t width,
              int64_t offset_groups = 1)
      : shape(convolution_shape(w, height, width, offset_groups)),
        out_row(round_up(shape.out_channels, gemm_panel<T>())),
        weight(shape, static_cast<const T*>(w.data_ptr()), gemm_panel<T>()),
        bias(out_row) {
    bias.fill_with_zeros();
    if (b) std::copy_n(b->const_data_ptr<G>(), shape.out_channels, bias.data());
  }

  // The whole of a 1x1 convolution: out[pixels, out_row].
  void run(int64_t pixels, simd::PixelRow<const T> in, G* out) const {
    weight.multiply(0, 0, shape.channels, in.data, in.pixel, pixels, bias.data(), 0, out, out_row);
  }
};

// Weights as NarrowConv3x3 reads them: for each output and row of the window one run of numbers.
template <typename T, typename G = Geometry<T>>
struct NarrowConvolution {
  const int64_t outs, channels, weight_row;
  Scratch<T> weight;
  Scratch<G> bias;

  NarrowConvolution(const Tensor& w, const Tensor& b)
      : outs(w.size(0)),
        channels(w.size(1)),
        weight_row(round_up(3 * channels, 64 / sizeof(T))),
        weight(outs * 3 * weight_row),
        bias(outs) {
    std::copy_n(b.const_data_ptr<G>(), outs, bias.data());
    weight.fill_with_zeros();
    const T* from = static_cast<const T*>(w.data_ptr());
    for (int64_t o = 0; o < outs; ++o)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t k = 0; k < 9; ++k)
          weight.data()[(o * 3 + k / 3) * weight_row + k % 3 * channels + c] = *from++;
  }

  void run(int64_t rows, int64_t width, const T* in, int64_t in_row, G* planes) const {
    feature_aggregation_kernel<T>().narrow_conv3x3({rows, width, outs, 3 * channels, in, in_row,
                                                    weight.data(), weight_row, bias.data(),
                                                    planes});
  }
};

template <typename T>
struct Convolutions {
  Convolution<T> reduce, project;
  NarrowConvolution<T> offset1;
  Convolution<T> align, offset2, attend;
};

// Whole rows of an image, some pixels at a time.
struct RowTiles {
  int64_t rows, width, size, count;  // `size` rows a tile

  RowTiles(int64_t rows, int64_t width, int64_t pixels) : rows(rows), width(width) {
    const int64_t wanted = std::max<int64_t>(1, (rows * width + pixels - 1) / pixels);
    size = (rows + wanted - 1) / wanted;
    count = (rows + size - 1) / size;
  }
  int64_t begin(int64_t tile) const { return tile * size; }
  int64_t end(int64_t tile) const { return std::min(rows, begin(tile) + size); }
};

// What a thread needs for one tile.
template <typename T, typename G = Geometry<T>>
struct Workspace {
  Scratch<T> columns;
  Scratch<G> products, planes, window, weights;
  Scratch<int32_t> pixel;
  RoiTaps<G> taps_y, taps_x;
  int64_t roi = -1;  // whose taps they are
  simd::DeformTap<G> tap{};
  simd::DeformReads<G> reads{};

  Workspace(int64_t pixels, int64_t columns_row, int64_t products_row, int64_t offsets)
      : columns(pixels * columns_row),
        products(pixels * products_row),
        planes(pixels * offsets),
        window(2 * pixels),
        weights(4 * pixels),
        pixel(pixels) {}

  // Turns to rows y0 to y1 of a deformable convolution.
  void start(const DeformConv2dShape& s, int64_t y0, int64_t y1) {
    tap.pixels = (y1 - y0) * s.width;
    tap.height = static_cast<int32_t>(s.height), tap.width = static_cast<int32_t>(s.width);
    G* window_y = window.data();
    G* window_x = window_y + tap.pixels;
    tap.window_y = window_y, tap.window_x = window_x;
    for (int64_t y = y0; y < y1; ++y)
      for (int64_t x = 0; x < s.width; ++x)
        *window_y++ = G(y - s.padding_height), *window_x++ = G(x - s.padding_width);
    reads.pixel = pixel.data();
    for (int i = 0; i < 4; ++i) reads.weight[i] = weights.data() + i * tap.pixels;
  }
};

}  // namespace dynamask
