// Bits to bytes and back.

#pragma once

#include <cstdint>

#include "cpu/simd/vec.h"

namespace dynamask::simd::DYNAMASK_VARIANT {

// Eight bits as eight bytes of 0 or 1, the lowest first in memory.
DYNAMASK_INLINE uint64_t eight_bytes(uint64_t bits) {
  const uint64_t spread = (bits & 0xff) * 0x0101010101010101 & 0x8040201008040201;
  return (spread + 0x7f7f7f7f7f7f7f7f) >> 7 & 0x0101010101010101;
}

// Writes bits 0 .. n - 1 of `bits`, n <= 64, as n bytes of 0 or 1. With kMayOverrun up to 64 bytes
// are written.
template <bool kMayOverrun>
DYNAMASK_INLINE void store_bits_as_bytes(uint8_t* out, uint64_t bits, int64_t n) {
#if defined(DYNAMASK_VARIANT_avx512)
  const __mmask64 inside = n < 64 ? (uint64_t(1) << n) - 1 : ~uint64_t(0);
  _mm512_mask_storeu_epi8(out, inside, _mm512_maskz_set1_epi8(bits, 1));
#elif defined(DYNAMASK_VARIANT_avx2)
  const __m256i byte_of_lane =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of_lane = _mm256_set1_epi64x(int64_t(0x8040201008040201));
  for (int64_t i = 0; i < n; i += 32) {
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(int32_t(bits >> i)), byte_of_lane);
    const __m256i ones = _mm256_and_si256(
        _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of_lane), bit_of_lane), _mm256_set1_epi8(1));
    if (kMayOverrun || n - i >= 32) {
      _mm256_storeu_si256((__m256i*)(out + i), ones);
    } else {
      __builtin_memcpy(out + i, &ones, n - i);
    }
  }
#else
  for (int64_t i = 0; i < n; i += 8) {
    const uint64_t bytes = eight_bytes(bits >> i);
    __builtin_memcpy(out + i, &bytes, kMayOverrun || n - i >= 8 ? 8 : n - i);
  }
#endif
}

// Bit i is set where p[i] is not zero, i < n <= 64; p[n] and beyond are not read.
DYNAMASK_INLINE uint64_t nonzero_bits(const uint8_t* p, int64_t n) {
#if defined(DYNAMASK_VARIANT_avx512)
  const __mmask64 there = n < 64 ? (uint64_t(1) << n) - 1 : ~uint64_t(0);
  const __m512i v = _mm512_maskz_loadu_epi8(there, p);
  return _mm512_test_epi8_mask(v, v);
#else
  uint8_t tail[64] = {};
  if (n < 64) {
    __builtin_memcpy(tail, p, n);
    p = tail;
  }
  uint64_t bits = 0;
#if defined(DYNAMASK_VARIANT_avx2)
  for (int i = 0; i < 64; i += 32) {
    const __m256i zero =
        _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i*)(p + i)), _mm256_setzero_si256());
    bits |= uint64_t(~uint32_t(_mm256_movemask_epi8(zero))) << i;
  }
#elif defined(__SSE2__)
  for (int i = 0; i < 64; i += 16) {
    const __m128i zero =
        _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i*)(p + i)), _mm_setzero_si128());
    bits |= uint64_t(uint16_t(~_mm_movemask_epi8(zero))) << i;
  }
#else
  for (int i = 0; i < 64; ++i) bits |= uint64_t(p[i] != 0) << i;
#endif
  return bits;
#endif
}

}  // namespace dynamask::simd::DYNAMASK_VARIANT
