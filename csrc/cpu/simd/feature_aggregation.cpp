#include "cpu/simd/feature_aggregation.h"

#include "cpu/simd/half.h"
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

template <typename T>
constexpr FeatureAggregationKernel<T> kKernel = {&upsample_row<T>, &relu_rows<T>};

}  // namespace

extern const FeatureAggregationKernels feature_aggregation_kernels;
const FeatureAggregationKernels feature_aggregation_kernels = {kKernel<float>, kKernel<double>};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
