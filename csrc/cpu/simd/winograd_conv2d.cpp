#include "cpu/simd/winograd_conv2d.h"

#include "cpu/simd/half.h"
#include "cpu/simd/vec.h"
#include "ops/winograd_conv2d.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

using winograd::kPatch;
using winograd::kTile;

template <typename T>
constexpr T kA = winograd::kA;
template <typename T>
constexpr T kB = winograd::kB;
template <typename T>
constexpr T kA2 = winograd::kA * winograd::kA;
template <typename T>
constexpr T kB2 = winograd::kB * winograd::kB;

// Six pixels along an axis at the six points.
template <typename T>
DYNAMASK_INLINE void patch_axis(const Vec<T> d[kPatch], Vec<T>* at, int64_t stride) {
  const auto sum = broadcast<T>(-kA2<T> - kB2<T>), product = broadcast<T>(kA2<T> * kB2<T>);
  const auto a = broadcast(kA<T>), b = broadcast(kB<T>);
  const auto a2 = broadcast(-kA2<T>), b2 = broadcast(-kB2<T>);
  at[0 * stride] = fma<T>(product, d[0], fma<T>(sum, d[2], d[4]));
  const auto even_a = fma<T>(b2, d[2], d[4]), odd_a = a * fma<T>(b2, d[1], d[3]);
  at[1 * stride] = even_a + odd_a;
  at[2 * stride] = even_a - odd_a;
  const auto even_b = fma<T>(a2, d[2], d[4]), odd_b = b * fma<T>(a2, d[1], d[3]);
  at[3 * stride] = even_b + odd_b;
  at[4 * stride] = even_b - odd_b;
  at[5 * stride] = fma<T>(product, d[1], fma<T>(sum, d[3], d[5]));
}

// Six points along an axis to the four pixels.
template <typename T>
DYNAMASK_INLINE void tile_axis(const Vec<T> m[kPatch], Vec<T>* pixel, int64_t stride) {
  const auto even_a = m[1] + m[2], odd_a = m[1] - m[2];
  const auto even_b = m[3] + m[4], odd_b = m[3] - m[4];
  pixel[0 * stride] = m[0] + even_a + even_b;
  pixel[1 * stride] = fma<T>(broadcast(kA<T>), odd_a, broadcast(kB<T>) * odd_b);
  pixel[2 * stride] = fma<T>(broadcast(kA2<T>), even_a, broadcast(kB2<T>) * even_b);
  pixel[3 * stride] = fma<T>(broadcast<T>(kA<T> * kA2<T>), odd_a,
                             fma<T>(broadcast<T>(kB<T> * kB2<T>), odd_b, m[5]));
}

template <typename S, typename Read>
DYNAMASK_INLINE void to_points_of(const S* patch, int64_t row_stride, int64_t pixel_stride,
                                  Wide<S>* points, int64_t point_stride, Read read) {
  using T = Wide<S>;
  Vec<T> half[kPatch][kPatch];
  for (int y = 0; y < kPatch; ++y) {
    Vec<T> d[kPatch];
    for (int x = 0; x < kPatch; ++x) d[x] = read(patch + y * row_stride + x * pixel_stride);
    patch_axis<T>(d, half[y], 1);
  }
  for (int x = 0; x < kPatch; ++x) {
    Vec<T> d[kPatch], at[kPatch];
    for (int y = 0; y < kPatch; ++y) d[y] = half[y][x];
    patch_axis<T>(d, at, 1);
    for (int y = 0; y < kPatch; ++y) store(points + (y * kPatch + x) * point_stride, at[y]);
  }
}

template <typename S>
void to_points(const S* patch, int64_t row_stride, int64_t pixel_stride, int64_t channels,
               Wide<S>* points, int64_t point_stride) {
  using T = Wide<S>;
  int64_t c = 0;
  for (; c + kLanes<T> <= channels; c += kLanes<T>)
    to_points_of(patch + c, row_stride, pixel_stride, points + c, point_stride,
                 [](const S* p) { return load_wide(p); });
  if (c < channels)
    to_points_of(patch + c, row_stride, pixel_stride, points + c, point_stride,
                 [=](const S* p) { return load_wide_partial<T>(p, channels - c); });
}

template <typename S, typename Write>
DYNAMASK_INLINE void to_pixels_of(const Wide<S>* points, int64_t point_stride, Vec<Wide<S>> bias,
                                  bool relu, S* tile, int64_t row_stride, int64_t pixel_stride,
                                  Write write) {
  using T = Wide<S>;
  Vec<T> half[kTile][kPatch];
  for (int x = 0; x < kPatch; ++x) {
    Vec<T> m[kPatch];
    for (int y = 0; y < kPatch; ++y) m[y] = load(points + (y * kPatch + x) * point_stride);
    tile_axis<T>(m, &half[0][x], kPatch);
  }
  for (int y = 0; y < kTile; ++y) {
    Vec<T> pixel[kTile];
    tile_axis<T>(half[y], pixel, 1);
    for (int x = 0; x < kTile; ++x) {
      auto value = pixel[x] + bias;
      if (relu) value = value < Vec<T>{} ? Vec<T>{} : value;  // NaN stays
      write(tile + y * row_stride + x * pixel_stride, value);
    }
  }
}

template <typename S>
void to_pixels(const Wide<S>* points, int64_t point_stride, const Wide<S>* bias, bool relu,
               int64_t channels, S* tile, int64_t row_stride, int64_t pixel_stride) {
  using T = Wide<S>;
  int64_t c = 0;
  for (; c + kLanes<T> <= channels; c += kLanes<T>)
    to_pixels_of(points + c, point_stride, load(bias + c), relu, tile + c, row_stride, pixel_stride,
                 [](S* p, Vec<T> v) { store_narrow(p, v); });
  if (c < channels)
    to_pixels_of(points + c, point_stride, load(bias + c), relu, tile + c, row_stride, pixel_stride,
                 [=](S* p, Vec<T> v) { store_narrow_partial<T>(p, v, channels - c); });
}

template <typename S>
constexpr WinogradConv2dKernel<S> kKernel = {&to_points<S>, &to_pixels<S>};

}  // namespace

extern const WinogradConv2dKernels winograd_conv2d_kernels;
const WinogradConv2dKernels winograd_conv2d_kernels = {kKernel<float>, kKernel<double>,
                                                       kKernel<BFloat16>, kKernel<Float16>};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
