#include "cpu/simd/deform_conv2d.h"

#include "cpu/simd/shuffle.h"
#include "ops/deform_conv2d.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

template <typename T>
DYNAMASK_INLINE DeformSample<T> sample_of(const DeformTap<T>& tap, int64_t p) {
  return DeformSample<T>(tap.height, tap.width, tap.window_y[p] + tap.tap_y + tap.offset_y[p],
                         tap.window_x[p] + tap.tap_x + tap.offset_x[p]);
}

template <typename T, bool HasMask>
DYNAMASK_INLINE void locate_all(const DeformTap<T>& tap, const DeformReads<T>& reads) {
  const int32_t row = tap.width + 2, outside = (tap.height + 1) * row;
  int32_t* __restrict pixel = reads.pixel;
  T* __restrict w0 = reads.weight[0];
  T* __restrict w1 = reads.weight[1];
  T* __restrict w2 = reads.weight[2];
  T* __restrict w3 = reads.weight[3];
  for (int64_t p = 0; p < tap.pixels; ++p) {
    const auto s = sample_of(tap, p);
    const T mask = HasMask ? tap.mask[p] : T(1);
    pixel[p] = s.inside ? (s.y + 1) * row + s.x + 1 : outside;
    w0[p] = mask * s.top_left();
    w1[p] = mask * s.top_right();
    w2[p] = mask * s.bottom_left();
    w3[p] = mask * s.bottom_right();
  }
}

template <typename T>
void locate(const DeformTap<T>& tap, const DeformReads<T>& reads) {
  if (tap.mask)
    locate_all<T, true>(tap, reads);
  else
    locate_all<T, false>(tap, reads);
}

template <typename T>
void sample(const DeformReads<T>& reads, int64_t pixels, const DeformImage<const T>& image, T* out,
            int64_t out_row) {
  constexpr int64_t step = kLanes<T>;
  for (int64_t p = 0; p < pixels; ++p) {
    const T* top = image.data + reads.pixel[p] * image.channels;
    const T* bottom = top + image.row;
    const Vec<T> w0 = broadcast(reads.weight[0][p]), w1 = broadcast(reads.weight[1][p]);
    const Vec<T> w2 = broadcast(reads.weight[2][p]), w3 = broadcast(reads.weight[3][p]);
    T* to = out + p * out_row;
    for (int64_t c = 0; c < image.count; c += step) {
      Vec<T> sum = w0 * load(top + c);
      sum = fma<T>(w1, load(top + image.channels + c), sum);
      sum = fma<T>(w2, load(bottom + c), sum);
      sum = fma<T>(w3, load(bottom + image.channels + c), sum);
      store(to + c, sum);
    }
  }
}

template <typename T>
void multiply(const DeformReads<T>& reads, int64_t pixels, const DeformImage<const T>& image,
              const T* grad, int64_t grad_row, T* products) {
  constexpr int64_t step = kLanes<T>;
  const int64_t right = image.channels, whole = image.count / step * step;
  for (int64_t p = 0; p < pixels; ++p) {
    const T* top = image.data + reads.pixel[p] * image.channels;
    const T* bottom = top + image.row;
    const T* g = grad + p * grad_row;
    Vec<T> s0{}, s1{}, s2{}, s3{};
    for (int64_t c = 0; c < whole; c += step) {
      const Vec<T> x = load(g + c);
      s0 = fma<T>(x, load(top + c), s0);
      s1 = fma<T>(x, load(top + right + c), s1);
      s2 = fma<T>(x, load(bottom + c), s2);
      s3 = fma<T>(x, load(bottom + right + c), s3);
    }
    T* sums = products + 4 * p;
    sum4<T>(s0, s1, s2, s3, sums);
    for (int64_t c = whole; c < image.count; ++c) {
      sums[0] += g[c] * top[c];
      sums[1] += g[c] * top[right + c];
      sums[2] += g[c] * bottom[c];
      sums[3] += g[c] * bottom[right + c];
    }
  }
}

template <typename T>
void add_offset_gradients(const DeformTap<T>& tap, const T* products, T* grad_y, T* grad_x,
                          T* grad_mask) {
  for (int64_t p = 0; p < tap.pixels; ++p) {
    const T* s = products + 4 * p;
    const DeformSampleGrad<T> grad(sample_of(tap, p), tap.mask ? tap.mask[p] : T(1), s[0], s[1],
                                   s[2], s[3]);
    grad_y[p] += grad.y;
    grad_x[p] += grad.x;
    if (grad_mask) grad_mask[p] += grad.mask;
  }
}

template <typename T>
DYNAMASK_INLINE void add_to(T* p, Vec<T> a, Vec<T> b) {
  store(p, fma<T>(a, b, load(p)));
}

template <typename T>
void scatter(const DeformReads<T>& reads, int64_t pixels, const T* grad, int64_t grad_row,
             const DeformImage<T>& image) {
  constexpr int64_t step = kLanes<T>;
  const int64_t right = image.channels, whole = image.count / step * step;
  for (int64_t p = 0; p < pixels; ++p) {
    T* top = image.data + reads.pixel[p] * image.channels;
    T* bottom = top + image.row;
    const T* g = grad + p * grad_row;
    const T w[4] = {reads.weight[0][p], reads.weight[1][p], reads.weight[2][p], reads.weight[3][p]};
    const Vec<T> w0 = broadcast(w[0]), w1 = broadcast(w[1]);
    const Vec<T> w2 = broadcast(w[2]), w3 = broadcast(w[3]);
    for (int64_t c = 0; c < whole; c += step) {
      const Vec<T> x = load(g + c);
      add_to<T>(top + c, w0, x);
      add_to<T>(top + right + c, w1, x);
      add_to<T>(bottom + c, w2, x);
      add_to<T>(bottom + right + c, w3, x);
    }
    for (int64_t c = whole; c < image.count; ++c) {
      top[c] += w[0] * g[c];
      top[right + c] += w[1] * g[c];
      bottom[c] += w[2] * g[c];
      bottom[right + c] += w[3] * g[c];
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
