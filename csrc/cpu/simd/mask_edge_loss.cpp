#include "cpu/simd/mask_edge_loss.h"

#include "cpu/simd/exponential.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

// So many vectors are added up before they join the sum of the RoI: short sums, small errors.
constexpr int64_t kVectorsPerSum = 16;

template <typename T>
DYNAMASK_INLINE Vec<T> load_targets(const T* p) {
  return load(p);
}
// Spelt out, because GCC converts bytes one by one.
template <typename T>
DYNAMASK_INLINE Vec<T> load_targets(const uint8_t* p) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes<T>)));
  Bytes bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
#if defined(DYNAMASK_VARIANT_avx512)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_maskz_cvtepi32_ps(0xffff,
                                            _mm512_maskz_cvtepu8_epi32(0xffff, (__m128i)bytes));
#elif defined(DYNAMASK_VARIANT_avx2)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)bytes)));
#endif
  return __builtin_convertvector(bytes, Vec<T>);
}

template <typename T>
struct LossAndError {
  Vec<T> loss, error;
};

template <typename T>
DYNAMASK_INLINE LossAndError<T> cross_entropy(Vec<T> x, Vec<T> t) {
  const Vec<T> zero{}, one = zero + T(1);
  const Vec<T> below = x > 0 ? zero : x;  // min(x, 0); NaN stays
  const Vec<T> e = exp_of_negative<T>(x > 0 ? -x : x);
  const Vec<T> rest = one - t, inverse = one / (one + e);
  const Vec<T> from_above = rest - e * inverse, from_below = e * inverse - t;
  const Vec<T> loss = fma<T>(rest, x, log1p_of_fraction<T>(e) - below);
  return {loss, x > 0 ? from_above : from_below};
}

template <typename S, typename T, typename Target>
T loss(const S* logits, const Target* targets, S* error, int64_t pixels) {
  constexpr int64_t step = kLanes<T>;
  double total = 0;
  int64_t i = 0;
  while (i + step <= pixels) {
    Vec<T> part{};
    for (int64_t k = 0; k < kVectorsPerSum && i + step <= pixels; ++k, i += step) {
      const auto at = cross_entropy<T>(load_wide(logits + i), load_targets<T>(targets + i));
      part += at.loss;
      if (error) store_narrow(error + i, at.error);
    }
    total += sum<T>(part);
  }
  if (i < pixels) {
    const int64_t n = pixels - i;
    Target some[step] = {};
    __builtin_memcpy(some, targets + i, n * sizeof(Target));
    const auto at = cross_entropy<T>(load_wide_partial<T>(logits + i, n), load_targets<T>(some));
    T each[step];
    store(each, at.loss);
    for (int64_t k = 0; k < n; ++k) total += each[k];
    if (error) store_narrow_partial<T>(error + i, at.error, n);
  }
  return T(total);
}

template <typename S, typename T>
void scale(const S* error, T by, S* out, int64_t pixels) {
  constexpr int64_t step = kLanes<T>;
  int64_t i = 0;
  for (; i + step <= pixels; i += step) store_narrow(out + i, load_wide(error + i) * by);
  if (i < pixels) {
    const Vec<T> last = load_wide_partial<T>(error + i, pixels - i) * by;
    store_narrow_partial<T>(out + i, last, pixels - i);
  }
}

template <typename S, typename T>
constexpr MaskEdgeLossKernel<S, T> kernel() {
  return {&loss<S, T, uint8_t>, &loss<S, T, T>, &scale<S, T>};
}

}  // namespace

extern const MaskEdgeLossKernels mask_edge_loss_kernels;
const MaskEdgeLossKernels mask_edge_loss_kernels = {
    kernel<float, float>(), kernel<double, double>(), kernel<Float16, float>(),
    kernel<BFloat16, float>()};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
