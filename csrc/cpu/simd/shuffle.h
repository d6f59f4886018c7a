// Exchanging lanes between vectors.

#pragma once

#include "cpu/simd/vec.h"

namespace dynamask::simd::DYNAMASK_VARIANT {

template <int... I>
struct Lanes {};
template <int N, int... I>
struct LanesTo : LanesTo<N - 1, N - 1, I...> {};
template <int... I>
struct LanesTo<0, I...> {
  using type = Lanes<I...>;
};

// Lane i of the result is lane `pick(i)` of a followed by b.
#if defined(__clang__)
#define DYNAMASK_SHUFFLE(a, b, pick) __builtin_shufflevector(a, b, (pick)...)
#else
#define DYNAMASK_SHUFFLE(a, b, pick) __builtin_shuffle(a, b, Index{(pick)...})
#endif

template <typename T>
struct Shuffle {
  static constexpr int kCount = kLanes<T>;
  using Integer = decltype(Vec<T>{} < Vec<T>{});  // integers as wide as T
  using Index = Integer;

  template <int... I>
  DYNAMASK_INLINE Vec<T> low(Vec<T> a, Vec<T> b, Lanes<I...>) {
    return DYNAMASK_SHUFFLE(a, b, I / 2 + I % 2 * kCount);
  }
  template <int... I>
  DYNAMASK_INLINE Vec<T> high(Vec<T> a, Vec<T> b, Lanes<I...>) {
    return DYNAMASK_SHUFFLE(a, b, I / 2 + I % 2 * kCount + kCount / 2);
  }
  template <int By, int... I>
  DYNAMASK_INLINE Vec<T> rotated(Vec<T> a, Lanes<I...>) {
    return DYNAMASK_SHUFFLE(a, a, (I + By) % kCount);
  }
};

// x in all lanes. x - 0 is x whatever its sign, so this is no arithmetic; 0 + x would be.
template <typename T>
DYNAMASK_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};
}

// a0 b0 a1 b1 ...: of the lower, and of the upper, halves of a and b.
template <typename T>
DYNAMASK_INLINE Vec<T> interleave_low(Vec<T> a, Vec<T> b) {
  return Shuffle<T>::low(a, b, typename LanesTo<kLanes<T>>::type{});
}
template <typename T>
DYNAMASK_INLINE Vec<T> interleave_high(Vec<T> a, Vec<T> b) {
  return Shuffle<T>::high(a, b, typename LanesTo<kLanes<T>>::type{});
}

// The sums of all lanes of four vectors, always in the same order.
template <typename T>
DYNAMASK_INLINE void sum4(Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d, T* out) {
  if constexpr (kLanes<T> < 4) {
    out[0] = sum<T>(a), out[1] = sum<T>(b), out[2] = sum<T>(c), out[3] = sum<T>(d);
  } else {
    using All = typename LanesTo<kLanes<T>>::type;
    const Vec<T> ac = interleave_low<T>(a, c) + interleave_high<T>(a, c);
    const Vec<T> bd = interleave_low<T>(b, d) + interleave_high<T>(b, d);
    Vec<T> abcd = interleave_low<T>(ac, bd) + interleave_high<T>(ac, bd);
    if constexpr (kLanes<T> >= 16) abcd += Shuffle<T>::template rotated<8>(abcd, All{});
    if constexpr (kLanes<T> >= 8) abcd += Shuffle<T>::template rotated<4>(abcd, All{});
    store_partial(out, abcd, 4);
  }
}

}  // namespace dynamask::simd::DYNAMASK_VARIANT
