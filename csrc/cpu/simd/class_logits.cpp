#include "cpu/simd/class_logits.h"

#include "cpu/simd/half.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

template <typename S, typename T>
void planes(const S* features, const T* weight, T bias, S* out, int64_t c, int64_t p) {
  constexpr int64_t step = kLanes<T>;
  int64_t i = 0;
  for (; i + step <= p; i += step) {
    auto acc = broadcast(bias);
    for (int64_t k = 0; k < c; ++k)
      acc = fma<T>(load_wide(features + k * p + i), broadcast(weight[k]), acc);
    store_narrow(out + i, acc);
  }
  if (i < p) {
    auto acc = broadcast(bias);
    for (int64_t k = 0; k < c; ++k)
      acc = fma<T>(load_wide_partial<T>(features + k * p + i, p - i), broadcast(weight[k]), acc);
    store_narrow_partial<T>(out + i, acc, p - i);
  }
}

template <typename S, typename T>
void rows(const S* features, const T* weight, T bias, S* out, int64_t c, int64_t p) {
  constexpr int64_t step = kLanes<T>;
  T logits[step];
  for (int64_t i = 0; i < p; i += step) {
    const int64_t n = p - i < step ? p - i : step;
    for (int64_t j = 0; j < n; ++j) {
      const S* row = features + (i + j) * c;
      Vec<T> acc{};
      int64_t k = 0;
      for (; k + step <= c; k += step) acc = fma<T>(load_wide(row + k), load(weight + k), acc);
      if (k < c)
        acc = fma<T>(load_wide_partial<T>(row + k, c - k), load_partial(weight + k, c - k), acc);
      logits[j] = bias + sum<T>(acc);
    }
    store_narrow_partial<T>(out + i, load_partial(logits, n), n);
  }
}

template <typename S, typename T>
constexpr ClassLogitsKernel<S, T> kernel() {
  return {&planes<S, T>, &rows<S, T>};
}

}  // namespace

extern const ClassLogitsKernels class_logits_kernels;
const ClassLogitsKernels class_logits_kernels = {kernel<float, float>(), kernel<double, double>(),
                                                 kernel<Float16, float>(),
                                                 kernel<BFloat16, float>()};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
