// The kernels of feature_aggregation, for the types of all variants.

#pragma once

#include "cpu/simd/feature_aggregation.h"
#include "cpu/simd/half.h"
#include "cpu/simd/shuffle.h"
#include "ops/feature_aggregation.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
// NaN stays NaN.
template <typename T>
DYNAMASK_INLINE Vec<T> relu(Vec<T> v) {
  return v < 0 ? Vec<T>{} : v;
}

// Calls f(c, n) for every vector of channels from c on, n of whose lanes count.
template <typename T, typename F>
DYNAMASK_INLINE void for_each_vector(int64_t channels, F&& f) {
  int64_t c = 0;
  for (; c + kLanes<T> <= channels; c += kLanes<T>) f(c, int64_t(kLanes<T>));
  if (c < channels) f(c, channels - c);
}

template <typename G, typename T>
DYNAMASK_INLINE Vec<G> load_some(const T* p, int64_t n) {
  return n == kLanes<G> ? load_wide(p) : load_wide_partial<G>(p, n);
}
template <typename G, typename T>
DYNAMASK_INLINE void store_some(T* p, Vec<G> v, int64_t n) {
  n == kLanes<G> ? store_narrow(p, v) : store_narrow_partial<G>(p, v, n);
}

template <typename T, typename G>
static void upsample_row(PixelRow<const G> near, PixelRow<const G> far, int64_t width,
                         int64_t channels, PixelRow<T> out) {
  constexpr G most = DoubledPixel::kNear, least = DoubledPixel::kFar;
  for_each_vector<G>(channels, [&](int64_t c, int64_t n) {
    const auto pixel = [&](int64_t x) {
      const auto a = load_some<G>(near.data + x * near.pixel + c, n);
      const auto b = load_some<G>(far.data + x * far.pixel + c, n);
      return most * relu<G>(a) + least * relu<G>(b);
    };
    Vec<G> left = pixel(0), middle = left;
    for (int64_t x = 0; x < width; ++x) {
      const Vec<G> right = x + 1 < width ? pixel(x + 1) : middle;
      T* to = out.data + 2 * x * out.pixel + c;
      store_some<G>(to, most * middle + least * left, n);
      store_some<G>(to + out.pixel, most * middle + least * right, n);
      left = middle, middle = right;
    }
  });
}

template <typename T, typename G>
static void relu_rows(PixelRow<const G> in, PixelRow<const T> add, int64_t pixels, int64_t channels,
                      PixelRow<T> out) {
  for (int64_t p = 0; p < pixels; ++p)
    for_each_vector<G>(channels, [&](int64_t c, int64_t n) {
      Vec<G> v = relu<G>(load_some<G>(in.data + p * in.pixel + c, n));
      if (add.data) v += load_some<G>(add.data + p * add.pixel + c, n);
      store_some<G>(out.data + p * out.pixel + c, v, n);
    });
}

// A vector of numbers to multiply, and the sums of products in Wide<T>. BFloat16 has its own, where
// every lane of the sums gets two products.
template <typename T>
struct Products {
  static constexpr int64_t kCount = kLanes<T>;
  using Vector = Vec<T>;
  DYNAMASK_INLINE Vector read(const T* p) { return load(p); }
  DYNAMASK_INLINE Vector read_some(const T* p, int64_t n) { return load_partial(p, n); }
  DYNAMASK_INLINE Vec<T> add(Vector a, Vector b, Vec<T> sum) { return fma<T>(a, b, sum); }
};

// Sums over vectors of channels of four pixels by so many outputs stay in registers. With the
// outputs as lanes instead, as in gemm.cpp, 18 of them would take as long as 32.
#if defined(DYNAMASK_VARIANT_avx512)
constexpr int kOuts = 6;
#else
constexpr int kOuts = 3;
#endif

// The sums of outputs from o on for the pixels whose windows start at in[0] to in[3].
template <typename T, typename G>
DYNAMASK_INLINE void narrow_block(const NarrowConv3x3<T>& conv, int64_t o, const T* const* in,
                                  G* out, int64_t out_row) {
  using P = Products<T>;
  using V = typename P::Vector;
  Vec<G> sum[kOuts][4];
#pragma GCC unroll 6
  for (int i = 0; i < kOuts; ++i)
    for (int p = 0; p < 4; ++p) sum[i][p] = Vec<G>{conv.bias[o + i]};  // in one lane
  const int64_t weight_out = 3 * conv.weight_row;
  for (int64_t k = 0; k < 3; ++k) {
    const T* weight = conv.weight + o * weight_out + k * conv.weight_row;
    const int64_t row = k * conv.in_row;
    const T *p0 = in[0] + row, *p1 = in[1] + row, *p2 = in[2] + row, *p3 = in[3] + row;
    const auto add = [&](int64_t c, V x0, V x1, V x2, V x3) __attribute__((always_inline)) {
#pragma GCC unroll 6
      for (int i = 0; i < kOuts; ++i) {
        const V w = P::read(weight + i * weight_out + c);
        sum[i][0] = P::add(x0, w, sum[i][0]);
        sum[i][1] = P::add(x1, w, sum[i][1]);
        sum[i][2] = P::add(x2, w, sum[i][2]);
        sum[i][3] = P::add(x3, w, sum[i][3]);
      }
    };
    int64_t c = 0;
    for (; c + P::kCount <= conv.depth; c += P::kCount)
      add(c, P::read(p0 + c), P::read(p1 + c), P::read(p2 + c), P::read(p3 + c));
    if (const int64_t n = conv.depth - c; n > 0)
      add(c, P::read_some(p0 + c, n), P::read_some(p1 + c, n), P::read_some(p2 + c, n),
          P::read_some(p3 + c, n));
  }
#pragma GCC unroll 6
  for (int i = 0; i < kOuts; ++i)
    sum4<G>(sum[i][0], sum[i][1], sum[i][2], sum[i][3], out + i * out_row);
}

template <typename T>
static void narrow_conv3x3(const NarrowConv3x3<T>& conv) {
  using G = Wide<T>;
  const int64_t pixels = conv.rows * conv.width, channels = conv.depth / 3;
  for (int64_t o = 0; o < conv.outs; o += kOuts)
    for (int64_t y = 0; y < conv.rows; ++y) {
      const T* row = conv.in + y * conv.in_row;
      G* out = conv.out + o * pixels + y * conv.width;
      for (int64_t x = 0; x < conv.width; x += 4) {
        const int64_t count = conv.width - x;
        const T* in[4];  // beyond the last pixel, the first of the four again
        for (int64_t i = 0; i < 4; ++i) in[i] = row + (x + (i < count ? i : 0)) * channels;
        if (count >= 4) {
          narrow_block<T>(conv, o, in, out + x, pixels);
          continue;
        }
        G some[kOuts * 4];
        narrow_block<T>(conv, o, in, some, 4);
        for (int64_t i = 0; i < kOuts * count; ++i)
          out[i / count * pixels + x + i % count] = some[i / count * 4 + i % count];
      }
    }
}

template <typename T>
constexpr FeatureAggregationKernel<T> kFeatureAggregationKernel = {
    &upsample_row<T, Wide<T>>, &relu_rows<T, Wide<T>>, &narrow_conv3x3<T>};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
