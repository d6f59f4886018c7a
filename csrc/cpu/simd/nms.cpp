#include "cpu/simd/nms.h"

#include "cpu/simd/vec.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

// The minimum and maximum of the processor; where one number is NaN, the second.
#if defined(DYNAMASK_VARIANT_avx512)
// The maskz forms: of the plain ones GCC 12 warns that they read something uninitialised.
#define DYNAMASK_OF_X86(name, all, a, b) _mm512_maskz_##name(all, a, b)
#elif defined(DYNAMASK_VARIANT_avx2)
#define DYNAMASK_OF_X86(name, all, a, b) _mm256_##name(a, b)
#elif defined(__x86_64__)
#define DYNAMASK_OF_X86(name, all, a, b) _mm_##name(a, b)
#endif

#if defined(DYNAMASK_OF_X86)
DYNAMASK_INLINE Vec<float> minimum(Vec<float> a, Vec<float> b) {
  return DYNAMASK_OF_X86(min_ps, 0xffff, a, b);
}
DYNAMASK_INLINE Vec<float> maximum(Vec<float> a, Vec<float> b) {
  return DYNAMASK_OF_X86(max_ps, 0xffff, a, b);
}
DYNAMASK_INLINE Vec<double> minimum(Vec<double> a, Vec<double> b) {
  return DYNAMASK_OF_X86(min_pd, 0xff, a, b);
}
DYNAMASK_INLINE Vec<double> maximum(Vec<double> a, Vec<double> b) {
  return DYNAMASK_OF_X86(max_pd, 0xff, a, b);
}
#undef DYNAMASK_OF_X86
#else
template <typename V>
DYNAMASK_INLINE V minimum(V a, V b) {
  return a < b ? a : b;
}
template <typename V>
DYNAMASK_INLINE V maximum(V a, V b) {
  return a > b ? a : b;
}
#endif

// A bit per lane: whether a > b there.
template <typename T>
DYNAMASK_INLINE uint64_t greater(Vec<T> a, Vec<T> b) {
#if defined(DYNAMASK_VARIANT_avx512)
  if constexpr (sizeof(T) == 4) return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
  if constexpr (sizeof(T) == 8) return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ);
#elif defined(DYNAMASK_VARIANT_avx2)
  if constexpr (sizeof(T) == 4) return (uint32_t)_mm256_movemask_ps((__m256)(a > b));
  if constexpr (sizeof(T) == 8) return (uint32_t)_mm256_movemask_pd((__m256d)(a > b));
#elif defined(__x86_64__)
  if constexpr (sizeof(T) == 4) return (uint32_t)_mm_movemask_ps((__m128)(a > b));
  if constexpr (sizeof(T) == 8) return (uint32_t)_mm_movemask_pd((__m128d)(a > b));
#else
  uint64_t bits = 0;
  for (int k = 0; k < kLanes<T>; ++k) bits |= uint64_t(a[k] > b[k]) << k;
  return bits;
#endif
}

// A division costs as much as all the rest, and few pairs are near the threshold: a product a
// little too low (by 2^-20) sorts out the others.
template <typename T>
struct Threshold {
  Vec<T> exact, low;
  static Threshold of(T t) { return {broadcast(t), broadcast(T(t * (1 - T(1) / (1 << 20))))}; }
};

// A bit for each of the 64 boxes from j on: whether box i overlaps it too much.
template <typename T>
DYNAMASK_INLINE uint64_t overlaps(const BoxColumns<T>& b, int64_t i, int64_t j,
                                  const Threshold<T>& threshold) {
  const auto zero = broadcast(T(0));
  const auto x1 = broadcast(b.x1[i]), y1 = broadcast(b.y1[i]), area = broadcast(b.area[i]);
  const auto x2 = broadcast(b.x2[i]), y2 = broadcast(b.y2[i]);
  uint64_t bits = 0;
  for (int k = 0; k < BoxColumns<T>::kStep; k += kLanes<T>) {
    const Vec<T> width = minimum(x2, load(b.x2 + j + k)) - maximum(x1, load(b.x1 + j + k));
    const Vec<T> height = minimum(y2, load(b.y2 + j + k)) - maximum(y1, load(b.y1 + j + k));
    const Vec<T> both = maximum(width, zero) * maximum(height, zero);
    const Vec<T> either = area + load(b.area + j + k) - both;
    uint64_t near = greater<T>(both, threshold.low * either);
    if (near) near = greater<T>(both / either, threshold.exact);
    bits |= near << k;
  }
  return bits;
}

template <typename T>
int64_t keep(const BoxColumns<T>& boxes, int64_t count, T limit, int64_t max_keep, uint64_t* dead,
             int64_t* keep) {
  const auto threshold = Threshold<T>::of(limit);
  const int64_t words = (count + 63) / 64;
  int64_t kept = 0;
  for (int64_t w = 0; w < words; ++w) {
    while (~dead[w] && kept < max_keep) {
      const int bit = __builtin_ctzll(~dead[w]);
      const int64_t i = 64 * w + bit;
      keep[kept++] = i;
      dead[w] |= uint64_t(1) << bit;
      for (int64_t v = w; v < words; ++v)
        if (~dead[v]) dead[v] |= overlaps(boxes, i, 64 * v, threshold);
    }
  }
  return kept;
}

}  // namespace

extern const NmsKernels nms_kernels;
const NmsKernels nms_kernels = {&keep<float>, &keep<double>};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
