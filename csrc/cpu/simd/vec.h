// Vectors as wide as the instruction set of this variant: arithmetic by operators (GCC and Clang
// vector extensions), and the few things those lack as functions.

#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dynamask::simd::DYNAMASK_VARIANT {

#if defined(DYNAMASK_VARIANT_avx512)
constexpr int kVectorBytes = 64;
#elif defined(DYNAMASK_VARIANT_avx2)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct VecOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vec = typename VecOf<T>::type;
template <typename T>
constexpr int kLanes = kVectorBytes / sizeof(T);

#define DYNAMASK_INLINE static inline __attribute__((always_inline))

template <typename T>
DYNAMASK_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <typename T>
DYNAMASK_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

#if defined(DYNAMASK_VARIANT_avx512)
DYNAMASK_INLINE uint32_t first_lanes(int64_t n) { return (1u << n) - 1; }
#elif defined(DYNAMASK_VARIANT_avx2)
template <typename T>
DYNAMASK_INLINE __m256i first_lanes(int64_t n) {
  if constexpr (sizeof(T) == 4)
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  else
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
#endif

// The first n lanes, 0 <= n <= kLanes; the others read as zero.
template <typename T>
DYNAMASK_INLINE Vec<T> load_partial(const T* p, int64_t n) {
#if defined(DYNAMASK_VARIANT_avx512)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_loadu_epi32(first_lanes(n), p);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_maskz_loadu_epi64(first_lanes(n), p);
#elif defined(DYNAMASK_VARIANT_avx2)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm256_maskload_epi32((const int*)p, first_lanes<T>(n));
  if constexpr (sizeof(T) == 8)
    return (Vec<T>)_mm256_maskload_epi64((const long long*)p, first_lanes<T>(n));
#endif
  Vec<T> v{};
  __builtin_memcpy(&v, p, n * sizeof(T));
  return v;
}

template <typename T>
DYNAMASK_INLINE void store_partial(T* p, Vec<T> v, int64_t n) {
#if defined(DYNAMASK_VARIANT_avx512)
  if constexpr (sizeof(T) == 4) return _mm512_mask_storeu_epi32(p, first_lanes(n), (__m512i)v);
  if constexpr (sizeof(T) == 8) return _mm512_mask_storeu_epi64(p, first_lanes(n), (__m512i)v);
#elif defined(DYNAMASK_VARIANT_avx2)
  if constexpr (sizeof(T) == 4)
    return _mm256_maskstore_epi32((int*)p, first_lanes<T>(n), (__m256i)v);
  if constexpr (sizeof(T) == 8)
    return _mm256_maskstore_epi64((long long*)p, first_lanes<T>(n), (__m256i)v);
#endif
  __builtin_memcpy(p, &v, n * sizeof(T));
}

template <typename T>
DYNAMASK_INLINE Vec<T> broadcast(T x) {
  return x - Vec<T>{};  // the compiler leaves out x - 0, but not 0 + x: x may be -0
}

// a * b + c in one rounding where the instruction set has it, else in two.
template <typename T>
DYNAMASK_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
#if defined(DYNAMASK_VARIANT_avx512)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  else
    return (Vec<T>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(DYNAMASK_VARIANT_avx2)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  else
    return (Vec<T>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// The sum of all lanes, always in the same order.
template <typename T>
DYNAMASK_INLINE T sum(Vec<T> v) {
  T s[kLanes<T>];
  store(s, v);
  for (int width = kLanes<T> / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) s[i] += s[i + width];
  return s[0];
}

}  // namespace dynamask::simd::DYNAMASK_VARIANT
