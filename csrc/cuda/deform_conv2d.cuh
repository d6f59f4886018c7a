// The forward kernel of deform_conv2d where Triton does not serve: a matrix product whose left
// matrix, the columns, is gathered piece by piece into shared memory. Products are IEEE.

#pragma once

#include "cuda/deform_columns.h"

namespace dynamask::cuda {

// A block owns a tile of output pixels of all images and a tile of output channels of one weight
// group. Bound by arithmetic: a multiplication for each pixel, output channel and column.
template <typename S, typename T, int kM, int kN>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T>)
    deform_conv2d_kernel(const __grid_constant__ DeformInput<S, T> a,
                         const T* weight,          // [groups, taps, C / groups, O / groups]
                         const T* bias, S* out) {  // [N, Ho, Wo, O]
  using Product = TileProduct<T, kM, kN>;
  __shared__ typename Product::Left columns;
  __shared__ typename Product::Right weights;
  __shared__ TapRead<T> reads[Product::kRows];
  const DeformConv2dShape& s = a.shape;
  // 32 bits where they do, for registers are short
  const int group_outs = s.group_out_channels(), group_channels = s.group_channels();
  const int out_tiles = ceil_divide(group_outs, Product::kColumns);
  const int first_out = blockIdx.x % out_tiles * Product::kColumns;
  const int group = blockIdx.x / out_tiles % s.groups;
  const int64_t first_pixel = blockIdx.x / (out_tiles * s.groups) * Product::kRows;
  const int t = threadIdx.x;

  Product product;
  const int end = (group + 1) * group_channels, of_offset = s.offset_group_channels();
  for (int begin = group * group_channels, run_end; begin < end; begin = run_end) {
    const int offset_group = begin / of_offset;
    run_end = min(end, (offset_group + 1) * of_offset);  // the channels that share their offsets
    for (int tap = 0; tap < s.taps(); ++tap) {
      for (int p = t; p < Product::kRows; p += kTileThreads)
        reads[p] = tap_read(a, first_pixel + p, offset_group, tap);
      __syncthreads();
      for (int c = begin; c < run_end; c += kDepth<T>) {
        const int count = run_end - c;
        gather_columns<Product::kRows, kDepth<T>>(a, reads, c, count, columns[0],
                                                  kDepth<T> / 4 + 1);
        const int64_t first_row = (group * s.taps() + tap) * group_channels + c % group_channels;
        for (int i = t; i < kDepth<T> * Product::kColumns; i += kTileThreads) {
          const int k = i / Product::kColumns, o = i % Product::kColumns;
          weights[k][o / Product::kPack].value[o % Product::kPack] =
              k < count && first_out + o < group_outs
                  ? weight[(first_row + k) * group_outs + first_out + o]
                  : T(0);
        }
        __syncthreads();
        product.add(columns, weights);
        __syncthreads();
      }
    }
  }

  for (int i = 0; i < kM; ++i)
    for (int j = 0; j < kN; ++j) {
      const int64_t pixel = first_pixel + Product::row(i), o = first_out + Product::column(j);
      if (pixel >= a.pixels() || o >= group_outs) continue;
      const int64_t channel = group * group_outs + o;
      out[pixel * s.out_channels + channel] =
          narrow<S>(product.sum[i][j] + (bias ? bias[channel] : T(0)));
    }
}

template <int kM, int kN, typename S, typename T>
void launch_deform_conv2d(Stream stream, const DeformInput<S, T>& a, const T* weight, const T* bias,
                          S* out) {
  using Product = TileProduct<T, kM, kN>;
  const int64_t blocks = ceil_divide(a.pixels(), Product::kRows) * a.shape.groups *
                         ceil_divide(a.shape.group_out_channels(), Product::kColumns);
  if (blocks > 0)
    launch(stream, blocks, kTileThreads, deform_conv2d_kernel<S, T, kM, kN>, a, weight, bias, out);
}

// Tiles no wider than there are output channels.
template <typename S, typename T>
void deform_conv2d(Stream stream, const DeformInput<S, T>& a, const T* weight, const T* bias,
                   S* out) {
  const int64_t outs = a.shape.group_out_channels();
  if (sizeof(T) == 8 || outs > 2 * kSide)
    launch_deform_conv2d<4, 4>(stream, a, weight, bias, out);
  else if constexpr (sizeof(T) == 4)
    launch_deform_conv2d<8, 2>(stream, a, weight, bias, out);
}

}  // namespace dynamask::cuda
