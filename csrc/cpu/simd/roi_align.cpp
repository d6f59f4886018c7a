#include "cpu/simd/roi_align.h"

#include "cpu/simd/half.h"
#include "cpu/simd/tap_groups.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

// One output position, `vectors` vectors of channels from channel 0 on.
template <int vectors, bool accumulate, typename In, typename T, typename Out>
DYNAMASK_INLINE void position(const In* in, const TapAxis<T>& y, int64_t i, const TapAxis<T>& x,
                              int64_t j, Out* out) {
  Vec<T> sum[vectors] = {};
  for (int64_t a = y.first[i]; a < y.first[i + 1]; ++a) {
    const In* row = in + y.offset[a];
    for (int64_t b = x.first[j]; b < x.first[j + 1]; ++b) {
      const In* pixel = row + x.offset[b];
      const auto weight = broadcast(y.weight[a] * x.weight[b]);
      for (int v = 0; v < vectors; ++v)
        sum[v] = fma<T>(weight, load_wide(pixel + v * kLanes<T>), sum[v]);
    }
  }
  for (int v = 0; v < vectors; ++v) {
    if constexpr (accumulate) sum[v] += load_wide(out + v * kLanes<T>);
    store_narrow(out + v * kLanes<T>, sum[v]);
  }
}

// The same for fewer channels than a vector has lanes.
template <bool accumulate, typename In, typename T, typename Out>
DYNAMASK_INLINE void position_partial(const In* in, const TapAxis<T>& y, int64_t i,
                                      const TapAxis<T>& x, int64_t j, Out* out, int64_t channels) {
  Vec<T> sum = {};
  for (int64_t a = y.first[i]; a < y.first[i + 1]; ++a)
    for (int64_t b = x.first[j]; b < x.first[j + 1]; ++b)
      sum = fma<T>(broadcast(y.weight[a] * x.weight[b]),
                   load_wide_partial<T>(in + y.offset[a] + x.offset[b], channels), sum);
  if constexpr (accumulate) sum += load_wide_partial<T>(out, channels);
  store_narrow_partial<T>(out, sum, channels);
}

template <bool accumulate, typename In, typename T, typename Out>
void rows(const In* in, const TapAxis<T>& y, const TapAxis<T>& x, Out* out, int64_t channels) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t i = 0; i < y.count; ++i) {
    for (int64_t j = 0; j < x.count; ++j) {
      Out* o = out + y.place[i] + x.place[j];
      int64_t c = 0;
      for (; c + 8 * lanes <= channels; c += 8 * lanes)
        position<8, accumulate>(in + c, y, i, x, j, o + c);
      for (; c + 2 * lanes <= channels; c += 2 * lanes)
        position<2, accumulate>(in + c, y, i, x, j, o + c);
      for (; c + lanes <= channels; c += lanes) position<1, accumulate>(in + c, y, i, x, j, o + c);
      if (c < channels) position_partial<accumulate>(in + c, y, i, x, j, o + c, channels - c);
    }
  }
}

template <typename T>
DYNAMASK_INLINE T read(const T* p) {
  return *p;
}
template <typename S>
DYNAMASK_INLINE float read_half(const S* p) {
  return load_wide_partial<float>(p, 1)[0];
}
DYNAMASK_INLINE float read(const Float16* p) { return read_half(p); }
DYNAMASK_INLINE float read(const BFloat16* p) { return read_half(p); }

DYNAMASK_INLINE void write(float* p, float value) { *p = value; }
DYNAMASK_INLINE void write(double* p, double value) { *p = value; }
DYNAMASK_INLINE void write(Float16* p, float value) {
  store_narrow_partial<float>(p, broadcast(value), 1);
}
DYNAMASK_INLINE void write(BFloat16* p, float value) {
  store_narrow_partial<float>(p, broadcast(value), 1);
}

// A column of one vector of the weighted sum of the rows that output row i needs.
template <typename In, typename T>
DYNAMASK_INLINE Vec<T> sum_column(const In* in, const TapAxis<T>& y, int64_t i, int64_t lanes) {
  Vec<T> sum = {};
  if (lanes == kLanes<T>) {
    for (int64_t a = y.first[i]; a < y.first[i + 1]; ++a)
      sum = fma<T>(broadcast(y.weight[a]), load_wide(in + y.offset[a]), sum);
  } else {
    for (int64_t a = y.first[i]; a < y.first[i + 1]; ++a)
      sum = fma<T>(broadcast(y.weight[a]), load_wide_partial<T>(in + y.offset[a], lanes), sum);
  }
  return sum;
}

// That sum over all columns that any output needs. The last vector overlaps the one before it.
template <typename In, typename T>
DYNAMASK_INLINE void sum_rows(const In* in, const TapAxis<T>& y, int64_t i, int64_t size, T* sums) {
  constexpr int64_t lanes = kLanes<T>;
  if (size < lanes) return store(sums, sum_column(in, y, i, size));
  for (int64_t k = 0; k + lanes <= size; k += lanes)
    store(sums + k, sum_column(in + k, y, i, lanes));
  if (size % lanes) {
    const int64_t k = size - lanes;
    store(sums + k, sum_column(in + k, y, i, lanes));
  }
}

template <bool accumulate, typename T, typename Out>
DYNAMASK_INLINE void sum_output(const TapAxis<T>& x, int64_t j, const T* sums, Out* row) {
  T sum = 0;
  for (int64_t b = x.first[j]; b < x.first[j + 1]; ++b)
    sum += x.weight[b] * sums[x.offset[b] - x.begin];
  Out* o = row + x.place[j];
  if constexpr (accumulate) sum += read(o);
  write(o, sum);
}

#if defined(DYNAMASK_VARIANT_avx512)
template <bool accumulate, typename Out>
DYNAMASK_INLINE void sum_outputs(const TapAxis<float>& x, const TapGroup* groups,
                                 int64_t num_groups, const float* sums, Out* row) {
  for (int64_t g = 0; g < num_groups; ++g) {
    const TapGroup& group = groups[g];
    if (group.taps < 0) {
      sum_output<accumulate>(x, group.first, sums, row);
      continue;
    }
    auto sum = sum_group(group, sums + group.begin - x.begin);
    Out* o = row + x.place[group.first];
    if constexpr (accumulate) sum += load_wide_partial<float>(o, group.count);
    store_narrow_partial<float>(o, sum, group.count);
  }
}
#endif

// Brings the rows of the next plane on their way while this one is worked on.
template <bool to_write, typename S>
DYNAMASK_INLINE void prefetch(const S* row, int64_t size) {
  constexpr int64_t line = 64 / sizeof(S);
  for (int64_t k = 0; k < size; k += line) __builtin_prefetch(row + k, to_write);
  __builtin_prefetch(row + size - 1, to_write);
}

template <typename In, typename T>
DYNAMASK_INLINE void prefetch_input(const In* plane, const TapAxis<T>& y, const TapAxis<T>& x) {
  int64_t last = -1;
  for (int64_t t = 0; t < y.first[y.count]; ++t) {
    if (y.offset[t] <= last) continue;
    last = y.offset[t];
    prefetch<false>(plane + last + x.begin, x.size);
  }
}

template <typename Out, typename T>
DYNAMASK_INLINE void prefetch_output(const Out* plane, const TapAxis<T>& y, const TapAxis<T>& x) {
  if (x.count == 0) return;
  const int64_t first = x.place[0], size = x.place[x.count - 1] + 1 - first;
  for (int64_t i = 0; i < y.count; ++i) prefetch<true>(plane + y.place[i] + first, size);
}

template <bool accumulate, typename In, typename T, typename Out>
void planes(const In* in, const TapAxis<T>& y, const TapAxis<T>& x, Out* out, int64_t channels,
            int64_t in_plane, int64_t out_plane, char* scratch) {
  auto* sums = reinterpret_cast<T*>(scratch);
#if defined(DYNAMASK_VARIANT_avx512)
  constexpr bool has_groups = sizeof(T) == 4;
  auto* groups = reinterpret_cast<TapGroup*>(scratch + (x.size + 64) / 16 * 64);
  int64_t num_groups = 0;
  if constexpr (has_groups)
    num_groups = make_groups(x, groups, reinterpret_cast<char*>(groups + x.count));
#endif
  for (int64_t c = 0; c < channels; ++c, in += in_plane, out += out_plane) {
    if (c + 1 < channels) {
      if constexpr (accumulate)
        prefetch_output(out + out_plane, y, x);
      else
        prefetch_input(in + in_plane, y, x);
    }
    for (int64_t i = 0; i < y.count; ++i) {
      sum_rows(in + x.begin, y, i, x.size, sums);
      Out* row = out + y.place[i];
#if defined(DYNAMASK_VARIANT_avx512)
      if constexpr (has_groups) {
        sum_outputs<accumulate>(x, groups, num_groups, sums, row);
        continue;
      }
#endif
      for (int64_t j = 0; j < x.count; ++j) sum_output<accumulate>(x, j, sums, row);
    }
  }
}

}  // namespace

extern const RoiAlignKernels roi_align_kernels;
const RoiAlignKernels roi_align_kernels = {
    {&rows<false, float, float, float>, &planes<false, float, float, float>},
    {&rows<false, double, double, double>, &planes<false, double, double, double>},
    {&rows<false, Float16, float, Float16>, &planes<false, Float16, float, Float16>},
    {&rows<false, BFloat16, float, BFloat16>, &planes<false, BFloat16, float, BFloat16>},
    {&rows<true, float, float, float>, &planes<true, float, float, float>},
    {&rows<true, double, double, double>, &planes<true, double, double, double>}};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
