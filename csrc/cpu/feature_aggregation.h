// The parts that the kernel of feature_aggregation is made of.

#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/deform_conv2d.h"
#include "cpu/packed_weight.h"
#include "cpu/roi_taps.h"

namespace dynamask {

// The shape of a convolution without stride.
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

// Weights as the matrix product reads them.
template <typename T>
struct Convolution {
  const DeformConv2dShape shape;
  const int64_t out_row;  // numbers of one pixel, in whole panels
  const PackedWeight<T> weight;
  Scratch<T> bias;

  Convolution(const Tensor& w, const Tensor* b, int64_t height, int64_t width,
              int64_t offset_groups = 1)
      : shape(convolution_shape(w, height, width, offset_groups)),
        out_row(round_up(shape.out_channels, gemm().panel)),
        weight(shape, w.const_data_ptr<T>(), gemm().panel),
        bias(out_row) {
    bias.fill_with_zeros();
    if (b) std::copy_n(b->const_data_ptr<T>(), shape.out_channels, bias.data());
  }

  static const simd::GemmKernel<T>& gemm() { return simd::gemm_kernels().of(T(0)); }

  // out[p, o] = init[p, o] + what the `depth` columns from `first` on contribute.
  void run(int64_t pixels, int64_t first, int64_t depth, const T* in, int64_t in_pixel,
           int64_t in_depth, const T* init, int64_t init_row, T* out) const {
    gemm().run({pixels, shape.out_channels, depth, in, in_pixel, in_depth, weight.first(0, first),
                weight.panel_size(), gemm().panel, init, init_row, out, out_row});
  }
};

// Weights as NarrowConv3x3 reads them: for each output and row of the window one run of numbers.
template <typename T>
struct NarrowConvolution {
  const int64_t outs, channels, weight_row;
  Scratch<T> weight, bias;

  NarrowConvolution(const Tensor& w, const Tensor& b)
      : outs(w.size(0)),
        channels(w.size(1)),
        weight_row(round_up(3 * channels, 16)),
        weight(outs * 3 * weight_row),
        bias(outs) {
    std::copy_n(b.const_data_ptr<T>(), outs, bias.data());
    weight.fill_with_zeros();
    const T* from = w.const_data_ptr<T>();
    for (int64_t o = 0; o < outs; ++o)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t k = 0; k < 9; ++k)
          weight.data()[(o * 3 + k / 3) * weight_row + k % 3 * channels + c] = *from++;
  }
};

template <typename T>
struct Convolutions {
  Convolution<T> reduce, project;
  NarrowConvolution<T> offset1;
  Convolution<T> align, offset2, attend;
};

// Whole rows of the output, some pixels at a time.
struct RowTiles {
  int64_t rows, width, size, count;  // of the image; `size` rows a tile

  RowTiles(int64_t rows, int64_t width, int64_t pixels) : rows(rows), width(width) {
    const int64_t wanted = std::max<int64_t>(1, (rows * width + pixels - 1) / pixels);
    size = (rows + wanted - 1) / wanted;
    count = (rows + size - 1) / size;
  }
  int64_t begin(int64_t tile) const { return tile * size; }
  int64_t end(int64_t tile) const { return std::min(rows, begin(tile) + size); }
};

// What a thread needs for one tile.
template <typename T>
struct Workspace {
  Scratch<T> columns, products, planes, window, weights;
  Scratch<int32_t> pixel;
  RoiTaps<T> taps_y, taps_x;
  int64_t roi = -1;  // whose taps they are

  Workspace(int64_t pixels, int64_t columns_row, int64_t products_row, int64_t offsets)
      : columns(pixels * columns_row),
        products(pixels * products_row),
        planes(pixels * offsets),
        window(2 * pixels),
        weights(4 * pixels),
        pixel(pixels) {}
};

}  // namespace dynamask
