#include "cpu/simd/feature_aggregation.h"

#include "cpu/simd/half.h"
#include "cpu/simd/shuffle.h"
#include "ops/feature_aggregation.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

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

template <typename T>
DYNAMASK_INLINE Vec<T> load_some(const T* p, int64_t n) {
  return n == kLanes<T> ? load(p) : load_wide_partial<T>(p, n);
}
template <typename T>
DYNAMASK_INLINE void store_some(T* p, Vec<T> v, int64_t n) {
  n == kLanes<T> ? store(p, v) : store_narrow_partial<T>(p, v, n);
}

template <typename T>
void upsample_row(PixelRow<const T> near, PixelRow<const T> far, int64_t width, int64_t channels,
                  PixelRow<T> out) {
  constexpr T most = DoubledPixel::kNear, least = DoubledPixel::kFar;
  for_each_vector<T>(channels, [&](int64_t c, int64_t n) {
    const auto pixel = [&](int64_t x) {
      const auto a = load_some(near.data + x * near.pixel + c, n);
      const auto b = load_some(far.data + x * far.pixel + c, n);
      return most * relu<T>(a) + least * relu<T>(b);
    };
    Vec<T> left = pixel(0), middle = left;
    for (int64_t x = 0; x < width; ++x) {
      const Vec<T> right = x + 1 < width ? pixel(x + 1) : middle;
      T* to = out.data + 2 * x * out.pixel + c;
      store_some(to, most * middle + least * left, n);
      store_some(to + out.pixel, most * middle + least * right, n);
      left = middle, middle = right;
    }
  });
}

template <typename T>
void relu_rows(PixelRow<const T> in, PixelRow<const T> add, int64_t pixels, int64_t channels,
               PixelRow<T> out) {
  for (int64_t p = 0; p < pixels; ++p)
    for_each_vector<T>(channels, [&](int64_t c, int64_t n) {
      Vec<T> v = relu<T>(load_some(in.data + p * in.pixel + c, n));
      if (add.data) v += load_some(add.data + p * add.pixel + c, n);
      store_some(out.data + p * out.pixel + c, v, n);
    });
}

// Sums over vectors of channels of four pixels by so many outputs stay in registers. With the
// outputs as lanes instead, as in gemm.cpp, 18 of them would take as long as 32.
#if defined(DYNAMASK_VARIANT_avx512)
constexpr int kOuts = 6;
#else
constexpr int kOuts = 3;
#endif

// The sums of outputs from o on for the pixels whose windows start at in[0] to in[3].
template <typename T>
DYNAMASK_INLINE void narrow_block(const NarrowConv3x3<T>& conv, int64_t o, const T* const* in,
                                  T* out, int64_t out_row) {
  Vec<T> sum[kOuts][4] = {};
  const int64_t weight_out = 3 * conv.weight_row;
  for (int64_t k = 0; k < 3; ++k) {
    const T* weight = conv.weight + o * weight_out + k * conv.weight_row;
    const int64_t row = k * conv.in_row;
    const T *p0 = in[0] + row, *p1 = in[1] + row, *p2 = in[2] + row, *p3 = in[3] + row;
    const auto add = [&](int64_t c, Vec<T> x0, Vec<T> x1, Vec<T> x2, Vec<T> x3) {
#pragma GCC unroll 6
      for (int i = 0; i < kOuts; ++i) {
        const Vec<T> w = load(weight + i * weight_out + c);
        sum[i][0] = fma<T>(x0, w, sum[i][0]);
        sum[i][1] = fma<T>(x1, w, sum[i][1]);
        sum[i][2] = fma<T>(x2, w, sum[i][2]);
        sum[i][3] = fma<T>(x3, w, sum[i][3]);
      }
    };
    int64_t c = 0;
    for (; c + kLanes<T> <= conv.depth; c += kLanes<T>)
      add(c, load(p0 + c), load(p1 + c), load(p2 + c), load(p3 + c));
    if (const int64_t n = conv.depth - c; n > 0)
      add(c, load_wide_partial<T>(p0 + c, n), load_wide_partial<T>(p1 + c, n),
          load_wide_partial<T>(p2 + c, n), load_wide_partial<T>(p3 + c, n));
  }
#pragma GCC unroll 6
  for (int i = 0; i < kOuts; ++i) {
    T* to = out + i * out_row;
    sum4<T>(sum[i][0], sum[i][1], sum[i][2], sum[i][3], to);
    for (int p = 0; p < 4; ++p) to[p] += conv.bias[o + i];
  }
}

template <typename T>
void narrow_conv3x3(const NarrowConv3x3<T>& conv) {
  const int64_t pixels = conv.rows * conv.width, channels = conv.depth / 3;
  for (int64_t o = 0; o < conv.outs; o += kOuts)
    for (int64_t y = 0; y < conv.rows; ++y) {
      const T* row = conv.in + y * conv.in_row;
      T* out = conv.out + o * pixels + y * conv.width;
      for (int64_t x = 0; x < conv.width; x += 4) {
        const int64_t count = conv.width - x;
        const T* in[4];  // beyond the last pixel, the first of the four again
        for (int64_t i = 0; i < 4; ++i) in[i] = row + (x + (i < count ? i : 0)) * channels;
        if (count >= 4) {
          narrow_block<T>(conv, o, in, out + x, pixels);
          continue;
        }
        T some[kOuts * 4];
        narrow_block<T>(conv, o, in, some, 4);
        for (int64_t i = 0; i < kOuts * count; ++i)
          out[i / count * pixels + x + i % count] = some[i / count * 4 + i % count];
      }
    }
}

template <typename T>
constexpr FeatureAggregationKernel<T> kKernel = {&upsample_row<T>, &relu_rows<T>,
                                                 &narrow_conv3x3<T>};

}  // namespace

extern const FeatureAggregationKernels feature_aggregation_kernels;
const FeatureAggregationKernels feature_aggregation_kernels = {kKernel<float>, kKernel<double>};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
