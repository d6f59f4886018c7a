#include "cpu/simd/class_logits.h"

#include "cpu/simd/vec.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

template <typename T>
void planes(const T* features, const T* weight, T bias, T* out, int64_t c, int64_t p) {
  constexpr int64_t step = kLanes<T>;
  int64_t i = 0;
  for (; i + step <= p; i += step) {
    auto acc = broadcast(bias);
    for (int64_t k = 0; k < c; ++k)
      acc = fma<T>(load(features + k * p + i), broadcast(weight[k]), acc);
    store(out + i, acc);
  }
  if (i < p) {
    auto acc = broadcast(bias);
    for (int64_t k = 0; k < c; ++k)
      acc = fma<T>(load_partial(features + k * p + i, p - i), broadcast(weight[k]), acc);
    store_partial(out + i, acc, p - i);
  }
}

template <typename T>
void rows(const T* features, const T* weight, T bias, T* out, int64_t c, int64_t p) {
  constexpr int64_t step = kLanes<T>;
  for (int64_t i = 0; i < p; ++i) {
    const T* row = features + i * c;
    Vec<T> acc{};
    int64_t k = 0;
    for (; k + step <= c; k += step) acc = fma<T>(load(row + k), load(weight + k), acc);
    if (k < c) acc = fma<T>(load_partial(row + k, c - k), load_partial(weight + k, c - k), acc);
    out[i] = bias + sum<T>(acc);
  }
}

}  // namespace

extern const ClassLogitsKernels class_logits_kernels;
const ClassLogitsKernels class_logits_kernels = {{&planes<float>, &rows<float>},
                                                 {&planes<double>, &rows<double>}};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
