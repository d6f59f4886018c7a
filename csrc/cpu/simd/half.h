// The 16-bit floating types as they lie in memory, and (inside of a variant) how they are read into
// vectors of fp32 and written from them. fp32 and fp64 have the same functions, for templates.

#pragma once

#include <cstdint>

namespace dynamask::simd {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The type one computes in: fp32 for the 16-bit types, else itself.
template <typename S>
struct WideOf {
  using type = float;
};
template <>
struct WideOf<double> {
  using type = double;
};
template <typename S>
using Wide = typename WideOf<S>::type;

}  // namespace dynamask::simd

#ifdef DYNAMASK_VARIANT
#include "cpu/simd/vec.h"

namespace dynamask::simd::DYNAMASK_VARIANT {

typedef uint32_t Bits32 __attribute__((vector_size(kVectorBytes)));
typedef uint16_t Bits16 __attribute__((vector_size(kVectorBytes / 2)));

DYNAMASK_INLINE Bits16 load_bits(const void* p) {
  Bits16 v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

DYNAMASK_INLINE void store_bits(void* p, Bits16 v) { __builtin_memcpy(p, &v, sizeof(v)); }

DYNAMASK_INLINE Vec<float> load_wide(const BFloat16* p) {
  return (Vec<float>)(__builtin_convertvector(load_bits(p), Bits32) << 16);
}

// To nearest, ties to even; NaN stays NaN.
DYNAMASK_INLINE void store_narrow(BFloat16* p, Vec<float> v) {
  const auto bits = (Bits32)v;
  const Bits32 rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const auto is_nan = (Bits32)(v != v);
  store_bits(p, __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7fc0), Bits16));
}

#if !defined(DYNAMASK_VARIANT_baseline)
constexpr int kToNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
#endif
#if defined(DYNAMASK_VARIANT_avx512)
// The maskz forms: of the plain ones GCC 12 warns that they read something uninitialised.
DYNAMASK_INLINE Vec<float> load_wide(const Float16* p) {
  return (Vec<float>)_mm512_maskz_cvtph_ps(0xffff, (__m256i)load_bits(p));
}
DYNAMASK_INLINE void store_narrow(Float16* p, Vec<float> v) {
  store_bits(p, (Bits16)_mm512_maskz_cvtps_ph(0xffff, (__m512)v, kToNearest));
}
#elif defined(DYNAMASK_VARIANT_avx2)
DYNAMASK_INLINE Vec<float> load_wide(const Float16* p) {
  return (Vec<float>)_mm256_cvtph_ps((__m128i)load_bits(p));
}
DYNAMASK_INLINE void store_narrow(Float16* p, Vec<float> v) {
  store_bits(p, (Bits16)_mm256_cvtps_ph((__m256)v, kToNearest));
}
#else
// Shifting the fields in place leaves an exponent 112 too small; a multiplication corrects it, for
// subnormal numbers too.
DYNAMASK_INLINE Vec<float> load_wide(const Float16* p) {
  const Bits32 half = __builtin_convertvector(load_bits(p), Bits32);
  const auto magnitude = (Bits32)((Vec<float>)((half & 0x7fff) << 13) * 0x1p112f);
  const auto is_special = (Bits32)((half & 0x7c00) == 0x7c00);
  return (Vec<float>)(magnitude | (is_special & 0x7f800000) | (half & 0x8000) << 16);
}

// Adding a power of two that is 2^13 ulps of the number away rounds it to 10 bits, to even.
DYNAMASK_INLINE void store_narrow(Float16* p, Vec<float> v) {
  const auto bits = (Bits32)v;
  const Bits32 sign = bits & 0x80000000, magnitude = bits ^ sign;
  const Bits32 least = Bits32{} + 0x38800000;  // 2^-14, the smallest normal number
  const auto is_small = (Bits32)(magnitude < least);
  const Bits32 exponent = ((magnitude & ~is_small) | (least & is_small)) & 0x7f800000;
  const Bits32 anchor = exponent + (13 << 23);
  const auto rounded = (Bits32)((Vec<float>)magnitude + (Vec<float>)anchor) - anchor;
  Bits32 half = rounded + (((exponent >> 23) - 113) << 10);
  const auto is_over = (Bits32)(magnitude >= Bits32{} + 0x477ff000);
  const auto is_nan = (Bits32)(magnitude > Bits32{} + 0x7f800000);
  half = (half & ~is_over) | (is_over & 0x7c00) | (is_nan & 0x0200);
  store_bits(p, __builtin_convertvector(half | sign >> 16, Bits16));
}
#endif

DYNAMASK_INLINE Vec<float> load_wide(const float* p) { return load(p); }
DYNAMASK_INLINE Vec<double> load_wide(const double* p) { return load(p); }
DYNAMASK_INLINE void store_narrow(float* p, Vec<float> v) { store(p, v); }
DYNAMASK_INLINE void store_narrow(double* p, Vec<double> v) { store(p, v); }

// The first n lanes, 0 <= n <= kLanes; the others read as zero.
template <typename T, typename S>
DYNAMASK_INLINE Vec<T> load_wide_partial(const S* p, int64_t n) {
  if constexpr (sizeof(S) > 2) {
    return load_partial(p, n);
  } else {
    S some[kLanes<T>] = {};
#if defined(DYNAMASK_VARIANT_avx512)
    store_bits(some, (Bits16)_mm256_maskz_loadu_epi16((__mmask16)first_lanes(n), p));
#else
    __builtin_memcpy(some, p, n * sizeof(S));
#endif
    return load_wide(some);
  }
}

template <typename T, typename S>
DYNAMASK_INLINE void store_narrow_partial(S* p, Vec<T> v, int64_t n) {
  if constexpr (sizeof(S) > 2) {
    store_partial(p, v, n);
  } else {
    S some[kLanes<T>];
    store_narrow(some, v);
#if defined(DYNAMASK_VARIANT_avx512)
    _mm256_mask_storeu_epi16(p, (__mmask16)first_lanes(n), (__m256i)load_bits(some));
#else
    __builtin_memcpy(p, some, n * sizeof(S));
#endif
  }
}

}  // namespace dynamask::simd::DYNAMASK_VARIANT
#endif
