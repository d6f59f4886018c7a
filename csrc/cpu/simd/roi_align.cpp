#include "cpu/simd/roi_align.h"

#include "cpu/simd/half.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

// One output position, `vectors` vectors of channels from channel 0 on.
template <int vectors, bool accumulate, typename In, typename T, typename Out>
DYNAMASK_INLINE void position(
    const In* in, const TapAxis<T>& y, int64_t i, const TapAxis<T>& x, int64_t j, Out* out) {
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
DYNAMASK_INLINE void position_partial(
    const In* in, const TapAxis<T>& y, int64_t i, const TapAxis<T>& x, int64_t j, Out* out,
    int64_t channels) {
  Vec<T> sum = {};
  for (int64_t a = y.first[i]; a < y.first[i + 1]; ++a)
    for (int64_t b = x.first[j]; b < x.first[j + 1]; ++b)
      sum = fma<T>(
          broadcast(y.weight[a] * x.weight[b]),
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
      for (; c + lanes <= channels; c += lanes)
        position<1, accumulate>(in + c, y, i, x, j, o + c);
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

// The weighted sum of the rows that output row i needs, over the columns that any output needs.
template <typename In, typename T>
DYNAMASK_INLINE void sum_rows(const In* in, const TapAxis<T>& y, int64_t i, int64_t size, T* sums) {
  constexpr int64_t lanes = kLanes<T>;
  int64_t k = 0;
  for (; k + lanes <= size; k += lanes) {
    Vec<T> sum = {};
    for (int64_t a = y.first[i]; a < y.first[i + 1]; ++a)
      sum = fma<T>(broadcast(y.weight[a]), load_wide(in + y.offset[a] + k), sum);
    store(sums + k, sum);
  }
  if (k < size) {
    Vec<T> sum = {};
    for (int64_t a = y.first[i]; a < y.first[i + 1]; ++a)
      sum = fma<T>(
          broadcast(y.weight[a]), load_wide_partial<T>(in + y.offset[a] + k, size - k), sum);
    store(sums + k, sum);
  }
}

template <bool accumulate, typename In, typename T, typename Out>
void planes(
    const In* in, const TapAxis<T>& y, const TapAxis<T>& x, Out* out, int64_t channels,
    int64_t in_plane, int64_t out_plane, T* scratch) {
  for (int64_t c = 0; c < channels; ++c, in += in_plane, out += out_plane) {
    for (int64_t i = 0; i < y.count; ++i) {
      sum_rows(in + x.begin, y, i, x.size, scratch);
      Out* row = out + y.place[i];
      for (int64_t j = 0; j < x.count; ++j) {
        T sum = 0;
        for (int64_t b = x.first[j]; b < x.first[j + 1]; ++b)
          sum += x.weight[b] * scratch[x.offset[b] - x.begin];
        Out* o = row + x.place[j];
        if constexpr (accumulate) sum += read(o);
        write(o, sum);
      }
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
