// e^x and log(1 + x) on the ranges a stable cross entropy needs, to about one unit in the last
// place. NaN stays NaN. The coefficients are minimax (Chebyshev) fits.

#pragma once

#include "cpu/simd/vec.h"

namespace dynamask::simd::DYNAMASK_VARIANT {

template <typename T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kLeast = -104.0f;  // e^x is 0 from here on
  static constexpr float kRound = 0x1.8p23f;
  // ln 2 in two parts; a whole number times the first is exact
  static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  // (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2
  static constexpr float kExp[] = {0.5f, 1.6666576e-01f, 4.1666556e-02f, 8.363203e-03f,
                                   1.3926213e-03f};
  // (log(1 + x) - x) / x^2 for 0 <= x <= 1
  static constexpr float kLog[] = {-0.5f,           3.3333236e-01f, -2.499676e-01f, 1.9956708e-01f,
                                   -1.6365153e-01f, 1.3033365e-01f, -9.139414e-02f, 4.9309973e-02f,
                                   -1.7184267e-02f, 2.801642e-03f};
};

template <>
struct ExpConstants<double> {
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kLeast = -746.0;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kLn2High = 0x1.62e42fefap-1, kLn2Low = 0x1.cf79abc9e3b3ap-40;
  static constexpr double kExp[] = {
      0.5000000000000001,     0.16666666666666669,    0.04166666666662399,   0.008333333333330051,
      0.0013888888917281794,  0.00019841269863105968, 2.480152119021773e-05, 2.7557268378684192e-06,
      2.7620138719733994e-07, 2.5100424157005067e-08};
  static constexpr double kLog[] = {
      -0.49999999999999994,  0.33333333333328546,  -0.2499999999935962,     0.19999999965822401,
      -0.1666666569676973,   0.14285697368176903,  -0.12499802193640867,    0.11109469727104494,
      -0.09989940978337618,  0.09044038405818781,  -0.0816358369873179,     0.07206052783890503,
      -0.06024571849605114,  0.045718328874219644, -0.030006248922024147,   0.016177448292083774,
      -0.006761419498849802, 0.002030846248409763, -0.00038701111085803037, 3.496499999517753e-05};
};

template <typename T, int N>
DYNAMASK_INLINE Vec<T> polynomial(const T (&coefficients)[N], Vec<T> x) {
  auto sum = broadcast(coefficients[N - 1]);
  for (int i = N - 2; i >= 0; --i) sum = fma<T>(sum, x, broadcast(coefficients[i]));
  return sum;
}

// x * 2^k, rounded once where that is subnormal. `shifted` is k + kRound.
template <typename T>
DYNAMASK_INLINE Vec<T> times_power_of_two(Vec<T> x, Vec<T> shifted) {
  using C = ExpConstants<T>;
#if defined(DYNAMASK_VARIANT_avx512)
  const Vec<T> k = shifted - C::kRound;
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_maskz_scalef_ps(0xffff, (__m512)x, (__m512)k);
  else
    return (Vec<T>)_mm512_maskz_scalef_pd(0xff, (__m512d)x, (__m512d)k);
#else
  using Integers = decltype(x < x);
  const auto power = [](Integers k) { return (Vec<T>)((k + C::kBias) << C::kMantissa); };
  const Integers k = (Integers)shifted - (Integers)broadcast(C::kRound);
  const Integers half = k >> 1;  // 2^k itself may be no normal number
  return x * power(half) * power(k - half);
#endif
}

// e^x for x <= 0: 2^k e^r with x = k ln 2 + r
template <typename T>
DYNAMASK_INLINE Vec<T> exp_of_negative(Vec<T> x) {
  using C = ExpConstants<T>;
  x = x < C::kLeast ? broadcast(C::kLeast) : x;
  const Vec<T> shifted = fma<T>(x, broadcast(T(0x1.71547652b82fep+0)), broadcast(C::kRound));
  const Vec<T> k = shifted - C::kRound;
  const Vec<T> r = fma<T>(k, broadcast(-C::kLn2Low), fma<T>(k, broadcast(-C::kLn2High), x));
  const Vec<T> e = fma<T>(polynomial<T>(C::kExp, r), r * r, r) + T(1);
  return times_power_of_two<T>(e, shifted);
}

// log(1 + x) for 0 <= x <= 1
template <typename T>
DYNAMASK_INLINE Vec<T> log1p_of_fraction(Vec<T> x) {
  return fma<T>(polynomial<T>(ExpConstants<T>::kLog, x), x * x, x);
}

}  // namespace dynamask::simd::DYNAMASK_VARIANT
