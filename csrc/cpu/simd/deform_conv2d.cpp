#include "cpu/simd/deform_conv2d.h"

#include "cpu/simd/deform_corners.h"
#include "cpu/simd/shuffle.h"
#include "ops/deform_conv2d.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

// Everything is passed by value: what a store might alias would be loaded again after each.

template <typename T>
DYNAMASK_INLINE DeformSample<T> sample_of(const DeformTap<T>& tap, int64_t p) {
  return DeformSample<T>(tap.height, tap.width, tap.window_y[p] + tap.tap_y + tap.offset_y[p],
                         tap.window_x[p] + tap.tap_x + tap.offset_x[p]);
}

template <typename T, bool HasMask>
DYNAMASK_INLINE void locate_all(DeformTap<T> tap, DeformReads<T> reads) {
  const int32_t row = tap.width + 2;
  for (int64_t p = 0; p < tap.pixels; p += 64 / sizeof(T)) {
    __builtin_prefetch(tap.offset_y + tap.pixels + p);
    __builtin_prefetch(tap.offset_x + tap.pixels + p);
    if (HasMask) __builtin_prefetch(tap.mask + tap.pixels + p);
  }
#pragma GCC ivdep
  for (int64_t p = 0; p < tap.pixels; ++p) {  // for the compiler to vectorise
    const auto s = sample_of(tap, p);
    const T mask = HasMask ? tap.mask[p] : T(1);
    reads.pixel[p] = (s.y + 1) * row + s.x + 1;
    reads.weight[0][p] = mask * s.top_left();
    reads.weight[1][p] = mask * s.top_right();
    reads.weight[2][p] = mask * s.bottom_left();
    reads.weight[3][p] = mask * s.bottom_right();
  }
}

template <typename T>
void locate(DeformTap<T> tap, DeformReads<T> reads) {
  if (tap.mask)
    locate_all<T, true>(tap, reads);
  else
    locate_all<T, false>(tap, reads);
}

template <typename T>
struct CornerWeights {
  Vec<T> w0, w1, w2, w3;

  DYNAMASK_INLINE CornerWeights at(const DeformReads<T>& reads, int64_t p) {
    return {splat(reads.weight[0][p]), splat(reads.weight[1][p]), splat(reads.weight[2][p]),
            splat(reads.weight[3][p])};
  }
};

template <typename T>
DYNAMASK_INLINE Vec<T> mix(const DeformCorners<const T>& from, const CornerWeights<T>& w,
                           int64_t c) {
  const Vec<T> top = fma<T>(w.w1, load(from.top_right + c), w.w0 * load(from.top_left + c));
  return fma<T>(w.w3, load(from.bottom_right + c), fma<T>(w.w2, load(from.bottom_left + c), top));
}

template <typename T>
void sample(DeformReads<T> reads, int64_t pixels, DeformImage<const T> image, T* out,
            int64_t out_row) {
  constexpr int64_t step = kLanes<T>;
  for (int64_t p = 0; p < pixels; ++p) {
    const auto from = corners_at(image, reads.pixel[p]);
    const auto w = CornerWeights<T>::at(reads, p);
    T* to = out + p * out_row;
    int64_t c = 0;
    for (; c + step < image.count; c += 2 * step) {
      const Vec<T> first = mix<T>(from, w, c), second = mix<T>(from, w, c + step);
      store(to + c, first);
      store(to + c + step, second);
    }
    if (c < image.count) store(to + c, mix<T>(from, w, c));
  }
}

template <typename T>
void multiply(DeformReads<T> reads, int64_t pixels, DeformImage<const T> image, const T* grad,
              int64_t grad_row, T* products) {
  constexpr int64_t step = kLanes<T>;
  for (int64_t p = 0; p < pixels; ++p) {
    const auto from = corners_at(image, reads.pixel[p]);
    const T* g = grad + p * grad_row;
    Vec<T> s0{}, s1{}, s2{}, s3{};
    int64_t c = 0;
    for (; c + step <= image.count; c += step) {
      const Vec<T> x = load(g + c);
      s0 = fma<T>(x, load(from.top_left + c), s0);
      s1 = fma<T>(x, load(from.top_right + c), s1);
      s2 = fma<T>(x, load(from.bottom_left + c), s2);
      s3 = fma<T>(x, load(from.bottom_right + c), s3);
    }
    T* sums = products + 4 * p;
    sum4<T>(s0, s1, s2, s3, sums);
    for (; c < image.count; ++c) {
      sums[0] += g[c] * from.top_left[c];
      sums[1] += g[c] * from.top_right[c];
      sums[2] += g[c] * from.bottom_left[c];
      sums[3] += g[c] * from.bottom_right[c];
    }
  }
}

template <typename T, bool HasMask>
DYNAMASK_INLINE void add_all_offset_gradients(DeformTap<T> tap, const T* __restrict products,
                                              T* __restrict grad_y, T* __restrict grad_x,
                                              T* __restrict grad_mask) {
  for (int64_t p = 0; p < tap.pixels; ++p) {
    const T* s = products + 4 * p;
    const DeformSampleGrad<T> grad(sample_of(tap, p), HasMask ? tap.mask[p] : T(1), s[0], s[1],
                                   s[2], s[3]);
    grad_y[p] += grad.y;
    grad_x[p] += grad.x;
    if (HasMask) grad_mask[p] += grad.mask;
  }
}

template <typename T>
void add_offset_gradients(DeformTap<T> tap, const T* products, T* grad_y, T* grad_x, T* grad_mask) {
  if (tap.mask)
    add_all_offset_gradients<T, true>(tap, products, grad_y, grad_x, grad_mask);
  else
    add_all_offset_gradients<T, false>(tap, products, grad_y, grad_x, nullptr);
}

template <typename T>
DYNAMASK_INLINE void add_product(T* p, Vec<T> a, Vec<T> b) {
  store(p, fma<T>(a, b, load(p)));
}

template <typename T>
void scatter(DeformReads<T> reads, int64_t pixels, const T* grad, int64_t grad_row,
             DeformImage<T> image) {
  constexpr int64_t step = kLanes<T>;
  for (int64_t p = 0; p < pixels; ++p) {
    const auto to = corners_at(image, reads.pixel[p]);
    const auto w = CornerWeights<T>::at(reads, p);
    const T* g = grad + p * grad_row;
    int64_t c = 0;
    for (; c + step <= image.count; c += step) {
      const Vec<T> x = load(g + c);
      add_product<T>(to.top_left + c, w.w0, x);
      add_product<T>(to.top_right + c, w.w1, x);
      add_product<T>(to.bottom_left + c, w.w2, x);
      add_product<T>(to.bottom_right + c, w.w3, x);
    }
    for (; c < image.count; ++c) {
      to.top_left[c] += reads.weight[0][p] * g[c];
      to.top_right[c] += reads.weight[1][p] * g[c];
      to.bottom_left[c] += reads.weight[2][p] * g[c];
      to.bottom_right[c] += reads.weight[3][p] * g[c];
    }
  }
}

template <typename T>
constexpr DeformConv2dKernel<T> kKernel = {&locate<T>, &sample<T>, &multiply<T>,
                                           &add_offset_gradients<T>, &scatter<T>};

}  // namespace

extern const DeformConv2dKernels deform_conv2d_kernels;
const DeformConv2dKernels deform_conv2d_kernels = {kKernel<float>, kKernel<double>};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
