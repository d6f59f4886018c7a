// Sums of taps along one axis, sixteen outputs at a time: the inputs that a run of outputs reads
// fit into two registers, and a permutation brings tap t of every output into its lane.

#pragma once

#include "cpu/simd/half.h"
#include "cpu/simd/roi_align.h"

#if defined(DYNAMASK_VARIANT_avx512)
namespace dynamask::simd::avx512 {

struct Span {
  int64_t low, high;
};

DYNAMASK_INLINE Span taps_span(const TapAxis<float>& x, int64_t j) {
  Span s{INT64_MAX, INT64_MIN};
  for (int64_t t = x.first[j]; t < x.first[j + 1]; ++t) {
    s.low = x.offset[t] < s.low ? x.offset[t] : s.low;
    s.high = x.offset[t] > s.high ? x.offset[t] : s.high;
  }
  return s;
}

// Lanes without a tap t repeat their first one with weight 0, so that they read nothing that is not
// theirs: a NaN beside a bin stays out of it.
DYNAMASK_INLINE char* fill_group(const TapAxis<float>& x, TapGroup& group, char* room) {
  constexpr int kLanes = TapGroup::kLanes;
  auto* index = reinterpret_cast<int32_t*>(room);
  auto* weight = reinterpret_cast<float*>(index + group.taps * kLanes);
  group.index = index, group.weight = weight;
  for (int64_t t = 0; t < group.taps; ++t) {
    for (int64_t lane = 0; lane < kLanes; ++lane, ++index, ++weight) {
      *index = 0, *weight = 0;
      if (lane >= group.count) continue;
      const int64_t first = x.first[group.first + lane], end = x.first[group.first + lane + 1];
      if (first == end) continue;
      const bool is_there = first + t < end;
      *index = static_cast<int32_t>(x.offset[is_there ? first + t : first] - group.begin);
      *weight = is_there ? x.weight[first + t] : 0;
    }
  }
  return reinterpret_cast<char*>(weight);
}

// Returns how many groups it made. One output that reads more than a window is a group of its own,
// with taps = -1.
DYNAMASK_INLINE int64_t make_groups(const TapAxis<float>& x, TapGroup* groups, char* room) {
  int64_t count = 0;
  for (int64_t j = 0; j < x.count; ++count) {
    TapGroup& group = groups[count];
    group = {j, 0, x.begin, 0, 0, nullptr, nullptr};
    Span all{INT64_MAX, INT64_MIN};
    for (; j < x.count && group.count < TapGroup::kLanes; ++j, ++group.count) {
      if (group.count > 0 && x.place[j] != x.place[j - 1] + 1) break;
      const Span s = taps_span(x, j);
      const Span both{s.low < all.low ? s.low : all.low, s.high > all.high ? s.high : all.high};
      const int64_t taps = x.first[j + 1] - x.first[j];
      if (taps > 0 && both.high - both.low >= TapGroup::kWindow) {
        if (group.count > 0) break;
        group.count = 1, group.taps = -1, ++j;
        break;
      }
      all = both;
      if (taps > group.taps) group.taps = taps;
      if (taps > 0) group.has_taps |= 1 << group.count, group.begin = all.low;
    }
    if (group.taps > 0) room = fill_group(x, group, room);
  }
  return count;
}

// sums points at input x.begin; 64 elements past the end of the inputs can be read.
DYNAMASK_INLINE Vec<float> sum_group(const TapGroup& group, const float* sums) {
  const auto low = (__m512)load(sums), high = (__m512)load(sums + 16);
  auto sum = _mm512_setzero_ps();
  for (int64_t t = 0; t < group.taps; ++t) {
    const auto index = _mm512_loadu_si512(group.index + t * TapGroup::kLanes);
    const auto weight = _mm512_loadu_ps(group.weight + t * TapGroup::kLanes);
    sum = _mm512_fmadd_ps(weight, _mm512_permutex2var_ps(low, index, high), sum);
  }
  return (Vec<float>)_mm512_maskz_mov_ps(group.has_taps, sum);
}

}  // namespace dynamask::simd::avx512
#endif
