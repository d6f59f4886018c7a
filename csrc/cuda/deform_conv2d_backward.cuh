// The backward kernels of deform_conv2d where Triton does not serve.

#pragma once

#include "cuda/deform_columns.h"
#include "cuda/gradient_sums.h"

namespace dynamask::cuda {

constexpr int kReadsOfTile = 4 * kSide;

// Where the gradients of what was read go; those that nobody wants have no data.
template <typename T, typename Sum>
struct ReadGradients {
  Sum* features;  // [N, H, W, C], starts as zeros
  PixelPlanes<T> offset, mask;

  DYNAMASK_HOST_DEVICE bool needs_products() const { return offset.data || mask.data; }
};

// left[p].value = the incoming gradient of pixel first_pixel + p, k out channels from `channel` on.
template <int kPixels, typename S, typename T>
__device__ void load_gradients(const S* grad, int64_t out_channels, int64_t first_pixel,
                               int64_t pixels, int channel, int count, Pack<T, 4>* left,
                               int pitch) {
  for (int i = threadIdx.x; i < kPixels * kDepth<T>; i += kTileThreads) {
    const int p = i / kDepth<T>, k = i % kDepth<T>;
    const bool exists = first_pixel + p < pixels && k < count;
    left[p * pitch + k / 4].value[k % 4] =
        exists ? wide(grad[(first_pixel + p) * out_channels + channel + k]) : T(0);
  }
}

// Sums over the threads of one row of the block.
template <typename T>
__device__ T sum_of_row(T x) {
  for (int step = kSide / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// A block owns a tap of an offset group for a tile of output pixels of all images: the gradient of
// their columns stays in registers, is added to the features they read, and summed over the
// channels for the offsets and the mask. Bound by arithmetic, and by atomic additions in the L2.
template <typename S, typename T, typename Sums>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T>) deform_conv2d_backward_reads_kernel(
    const __grid_constant__ DeformInput<S, T> a, const S* grad,  // [N, Ho, Wo, O]
    const T* weight,  // [groups, taps, O / groups, C / groups]
    Sums sums, const __grid_constant__ ReadGradients<T, typename Sums::Sum> to) {
  using Product = TileProduct<T, 4, 4>;
  __shared__ typename Product::Left grads;
  __shared__ typename Product::Right weights;
  __shared__ TapRead<T> reads[kReadsOfTile];
  const DeformConv2dShape& s = a.shape;
  // 32 bits where they do, for registers are short
  const int group_outs = s.group_out_channels(), group_channels = s.group_channels();
  const int tap = blockIdx.x % s.taps(), offset_group = blockIdx.x / s.taps() % s.offset_groups;
  const int64_t first_pixel = blockIdx.x / (s.taps() * s.offset_groups) * kReadsOfTile;
  const int t = threadIdx.x;
  const auto terms = sums.terms();
  for (int p = t; p < kReadsOfTile; p += kTileThreads)
    reads[p] = tap_read(a, first_pixel + p, offset_group, tap);
  __syncthreads();

  T products[4][4] = {};  // of each pixel of the thread, with each neighbour
  const int end = (offset_group + 1) * s.offset_group_channels();
  for (int c = end - s.offset_group_channels(), next; c < end; c = next) {
    const int group = c / group_channels;
    next = min(c + Product::kColumns, min(end, (group + 1) * group_channels));
    Product columns;
    const int64_t first_row = (group * s.taps() + tap) * group_outs;
    for (int o = 0; o < group_outs; o += kDepth<T>) {
      load_gradients<Product::kRows>(grad, s.out_channels, first_pixel, a.pixels(),
                                     group * group_outs + o, group_outs - o, grads[0],
                                     kDepth<T> / 4 + 1);
      for (int i = t; i < kDepth<T> * Product::kColumns; i += kTileThreads) {
        const int k = i / Product::kColumns, j = i % Product::kColumns;
        weights[k][j / 4].value[j % 4] =
            o + k < group_outs && c + j < next
                ? weight[(first_row + o + k) * group_channels + c % group_channels + j]
                : T(0);
      }
      __syncthreads();
      columns.add(grads, weights);
      __syncthreads();
    }
    const int channel = c + Product::column(0), count = next - channel;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const TapRead<T>& read = reads[Product::row(i)];
      read.for_each_neighbour(s, [&](int corner, int64_t pixel) {
        if (to.needs_products()) {
          const auto x = a.channels(pixel, channel, count);
          for (int e = 0; e < 4; ++e)
            products[i][corner] = fma(x.value[e], columns.sum[i][e], products[i][corner]);
        }
        if (to.features && count > 0) {
          Pack<typename Sums::Sum, 4> part;
          for (int e = 0; e < 4; ++e)
            part.value[e] = terms.of(columns.sum[i][e] * (read.mask * read.weight[corner]));
          auto* place = to.features + pixel * s.channels + channel;
          if (a.packed)
            add_to(place, part);
          else
            for (int e = 0; e < 4; ++e)
              if (e < count) atomicAdd(place + e, part.value[e]);
        }
      });
    }
  }

  if (!to.needs_products()) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    for (int corner = 0; corner < 4; ++corner)
      products[i][corner] = sum_of_row(products[i][corner]);
    const int64_t pixel = first_pixel + Product::row(i);
    if (t % kSide != 0 || pixel >= a.pixels()) continue;
    const OutPixel p(s, pixel);
    const DeformSampleGrad<T> g(a.sample(p, offset_group, tap), a.mask_of(p, offset_group, tap),
                                products[i][0], products[i][1], products[i][2], products[i][3]);
    const int64_t plane = offset_group * s.taps() + tap;
    if (to.offset.data) {
      p.of(to.offset, 2 * plane) = g.y;
      p.of(to.offset, 2 * plane + 1) = g.x;
    }
    if (to.mask.data) p.of(to.mask, plane) = g.mask;
  }
}

template <typename S, typename T, typename Sums>
void deform_conv2d_backward_reads(Stream stream, const DeformInput<S, T>& a, const S* grad,
                                  const T* weight, const Sums& sums,
                                  const ReadGradients<T, typename Sums::Sum>& to) {
  const int64_t blocks =
      ceil_divide(a.pixels(), kReadsOfTile) * a.shape.offset_groups * a.shape.taps();
  if (blocks > 0)
    launch(stream, blocks, kTileThreads, deform_conv2d_backward_reads_kernel<S, T, Sums>, a, grad,
           weight, sums, to);
}

// How many products can meet in the gradient of one feature: what FixedSums has to hold.
inline int64_t terms_of_a_feature(const DeformConv2dShape& s) {
  return s.out_pixels() * s.taps() * s.group_out_channels();
}

constexpr int kWeightTile = 4 * kSide;  // channels, and out channels, of a block

// The channels [begin, end) that a block of the next kernel owns: of one weight group and one
// offset group.
struct ChannelRun {
  int64_t begin, end;

  DYNAMASK_HOST_DEVICE ChannelRun(const DeformConv2dShape& s, int64_t begin) : begin(begin) {
    const int64_t of_group = s.group_channels(), of_offset = s.offset_group_channels();
    end = min(begin + kWeightTile,
              min((begin / of_group + 1) * of_group, (begin / of_offset + 1) * of_offset));
  }
};

inline int64_t channel_runs(const DeformConv2dShape& s) {
  int64_t runs = 0;
  for (int64_t c = 0; c < s.channels; c = ChannelRun(s, c).end) ++runs;
  return runs;
}

// A block owns a tile of the weight at one tap, and a part of the output pixels of all images,
// whose columns it gathers. Bound by arithmetic.
template <typename S, typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T>)
    deform_conv2d_backward_weight_kernel(const __grid_constant__ DeformInput<S, T> a,
                                         const S* grad,  // [N, Ho, Wo, O]
                                         int64_t parts, int64_t pixels_of_part,
                                         T* sums) {  // [parts, O, C / groups, taps]
  using Product = TileProduct<T, 4, 4>;
  __shared__ typename Product::Left grads;     // [out channel, pixel]
  __shared__ typename Product::Right columns;  // [pixel, channel]
  __shared__ TapRead<T> reads[kDepth<T>];
  const DeformConv2dShape& s = a.shape;
  const int64_t group_outs = s.group_out_channels(), group_channels = s.group_channels();
  const int64_t tiles = ceil_divide(group_outs, kWeightTile);
  int64_t block = blockIdx.x;
  const int64_t first_out = block % tiles * kWeightTile;
  block /= tiles;
  const int64_t tap = block % s.taps();
  block /= s.taps();
  const int64_t part = block % parts;
  ChannelRun run(s, 0);
  for (int64_t i = block / parts; i > 0; --i) run = ChannelRun(s, run.end);
  const int64_t group = run.begin / group_channels;
  const int64_t offset_group = run.begin / s.offset_group_channels();
  const int t = threadIdx.x;

  Product product;
  const int64_t end = min((part + 1) * pixels_of_part, a.pixels());
  for (int64_t first = part * pixels_of_part; first < end; first += kDepth<T>) {
    for (int p = t; p < kDepth<T>; p += kTileThreads)
      reads[p] = first + p < end ? tap_read(a, first + p, offset_group, tap) : TapRead<T>{};
    for (int i = t; i < kDepth<T> * kWeightTile; i += kTileThreads) {
      // a warp takes 4 pixels of 8 channels: those lie in different banks of `grads`
      const int p = i / (4 * kWeightTile) * 4 + i % 4, o = i / 4 % kWeightTile;
      const int64_t channel = group * group_outs + first_out + o;
      grads[o][p / 4].value[p % 4] = first + p < end && first_out + o < group_outs
                                         ? wide(grad[(first + p) * s.out_channels + channel])
                                         : T(0);
    }
    __syncthreads();
    gather_columns<kDepth<T>, kWeightTile>(a, reads, run.begin, run.end - run.begin, columns[0],
                                           kWeightTile / 4);
    __syncthreads();
    product.add(grads, columns);
    __syncthreads();
  }

  sums += part * s.out_channels * group_channels * s.taps();
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int64_t o = first_out + Product::row(i), c = run.begin + Product::column(j);
      if (o >= group_outs || c >= run.end) continue;
      const int64_t place = (group * group_outs + o) * group_channels + c % group_channels;
      sums[place * s.taps() + tap] = product.sum[i][j];
    }
}

// A thread owns a number: the sum of its parts, in order. Bound by memory.
template <typename T>
__global__ void sum_of_parts_kernel(const T* in, int64_t parts, int64_t count, T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  T sum = 0;
  for (int64_t p = 0; p < parts; ++p) sum += in[p * count + i];
  out[i] = sum;
}

// Into how many parts the pixels are divided, so that there are enough blocks for a GPU, and how
// many pixels a part has: from the shape alone, so that the sums are the same everywhere.
struct WeightParts {
  int64_t tiles, count, pixels;

  explicit WeightParts(const DeformConv2dShape& s) {
    constexpr int64_t kBlocks = 1024, kFewest = 256;  // blocks wanted, pixels worth one
    const int64_t all = s.batch * s.out_pixels();
    tiles = channel_runs(s) * s.taps() * ceil_divide(s.group_out_channels(), kWeightTile);
    const int64_t wanted = tiles == 0 ? 1 : ceil_divide(kBlocks, tiles);
    count = min(wanted, ceil_divide(all, kFewest));
    pixels = count == 0 ? 0 : ceil_divide(all, count);
  }
};

// `sums` has room for parts.count gradients.
template <typename S, typename T>
void deform_conv2d_backward_weight(Stream stream, const DeformInput<S, T>& a, const S* grad,
                                   const WeightParts& parts, T* sums, T* out) {
  const DeformConv2dShape& s = a.shape;
  if (const int64_t blocks = parts.tiles * parts.count; blocks > 0)
    launch(stream, blocks, kTileThreads, deform_conv2d_backward_weight_kernel<S, T>, a, grad,
           parts.count, parts.pixels, sums);
  if (const int64_t count = s.out_channels * s.group_channels() * s.taps(); count > 0)
    launch(stream, ceil_divide(count, kSumThreads), kSumThreads, sum_of_parts_kernel<T>, sums,
           parts.count, count, out);
}

}  // namespace dynamask::cuda
