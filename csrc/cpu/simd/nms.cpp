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

// a - b. Some processors add where they find minima and compare, and multiply elsewhere, so the
// additions of this file are left to the multipliers.
template <typename T>
DYNAMASK_INLINE Vec<T> difference(Vec<T> a, Vec<T> b) {
  return fma<T>(a, broadcast(T(1)), -b);
}

// The boxes of one word that were kept, to be held against all later ones.
template <typename T>
struct Kept {
  T x1[64], y1[64], x2[64], y2[64], area[64], share[64];
  int count = 0;

  void add(const BoxColumns<T>& b, int64_t i) {
    x1[count] = b.x1[i], y1[count] = b.y1[i], x2[count] = b.x2[i], y2[count] = b.y2[i];
    area[count] = b.area[i], share[count] = b.share[i];
    ++count;
  }
};

// A bit for each box from j on, as many as a vector has lanes: whether one of the kept boxes
// `first` and after overlaps it too much. The division is left to the few pairs near the threshold.
template <typename T>
DYNAMASK_INLINE uint64_t overlaps(const Kept<T>& kept, int first, const BoxColumns<T>& b, int64_t j,
                                  Vec<T> limit) {
  const Vec<T> zero{};
  const Vec<T> x1 = load(b.x1 + j), y1 = load(b.y1 + j), x2 = load(b.x2 + j), y2 = load(b.y2 + j);
  const Vec<T> share = load(b.share + j);
  uint64_t bits = 0;
  for (int k = first; k < kept.count; ++k) {
    const Vec<T> width =
        difference<T>(minimum(x2, broadcast(kept.x2[k])), maximum(x1, broadcast(kept.x1[k])));
    const Vec<T> height =
        difference<T>(minimum(y2, broadcast(kept.y2[k])), maximum(y1, broadcast(kept.y1[k])));
    // without area where one of them is negative, and then not above a share either
    const Vec<T> at_most = maximum(width, zero) * height;
    if (greater<T>(at_most, share + kept.share[k])) {
      const Vec<T> both = maximum(width, zero) * maximum(height, zero);
      bits |= greater<T>(both / (kept.area[k] + load(b.area + j) - both), limit);
    }
  }
  return bits;
}

// Word by word: what is kept of one is known before any later word is looked at, so each vector of
// later boxes is loaded once for all of them.
template <typename T>
int64_t keep(const BoxColumns<T>& boxes, int64_t count, T limit_, int64_t max_keep, uint64_t* dead,
             int64_t* keep) {
  constexpr uint64_t lanes = kLanes<T> < 64 ? (uint64_t(1) << kLanes<T>)-1 : ~uint64_t(0);
  const Vec<T> limit = broadcast(limit_);
  const int64_t words = (count + 63) / 64;
  int64_t total = 0;
  for (int64_t w = 0; w < words && total < max_keep; ++w) {
    Kept<T> kept;
    const auto suppress = [&](int64_t v, int first) {
      for (int k = 0; k < 64; k += kLanes<T>)
        if (~dead[v] >> k & lanes) dead[v] |= overlaps(kept, first, boxes, 64 * v + k, limit) << k;
    };
    while (~dead[w] && total < max_keep) {
      const int bit = __builtin_ctzll(~dead[w]);
      keep[total++] = 64 * w + bit;
      dead[w] |= uint64_t(1) << bit;
      kept.add(boxes, 64 * w + bit);
      suppress(w, kept.count - 1);
    }
    for (int64_t v = w + 1; v < words; ++v) suppress(v, 0);
  }
  return total;
}

// With both > threshold (a + b - both), the part in common is at least threshold times as wide as
// either box: so the other begins within these bounds, and no strip beyond them is looked at.
template <typename T>
int64_t keep_of_strips(const BoxStrips<T>& strips, int64_t count, T limit_, int64_t max_keep,
                       uint64_t* dead, int64_t* keep) {
  constexpr int64_t step = kLanes<T>;
  constexpr uint64_t lanes = step < 64 ? (uint64_t(1) << step) - 1 : ~uint64_t(0);
  const Vec<T> limit = broadcast(limit_);
  const T before = (1 / limit_ - limit_) * T(1.0001), after = (1 - limit_) * T(1.0001);
  const BoxColumns<T>& b = strips.boxes;
  int64_t total = 0;
  for (int64_t rank = 0; rank < count && total < max_keep; ++rank) {
    const int64_t i = strips.place[rank];
    if (dead[i / 64] >> i % 64 & 1) continue;
    keep[total++] = rank;
    dead[i / 64] |= uint64_t(1) << i % 64;
    const T width = b.x2[i] - b.x1[i];
    if (!(width > 0)) continue;
    Kept<T> kept;
    kept.add(b, i);
    const int64_t begin = strips.first[strips.first_of(b.x1[i] - before * width - strips.slack)];
    const int64_t end = strips.first[strips.last_of(b.x1[i] + after * width + strips.slack) + 1];
    for (int64_t j = begin / step * step; j < end; j += step)
      if (~dead[j / 64] >> j % 64 & lanes) dead[j / 64] |= overlaps(kept, 0, b, j, limit) << j % 64;
  }
  return total;
}

}  // namespace

extern const NmsKernels nms_kernels;
const NmsKernels nms_kernels = {{&keep<float>, &keep_of_strips<float>},
                                {&keep<double>, &keep_of_strips<double>}};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
