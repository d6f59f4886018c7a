#include "cpu/simd/paste_masks.h"

#include "cpu/simd/vec.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

void tabulate(const PasteAxis& axis, int32_t mask_size, const PasteTable& table) {
  const int32_t count = axis.end - axis.begin;
  const auto put = [&](int32_t i, PasteSample s) {
    table.cell[i] = s.cell;
    table.before[i] = s.before;
    table.after[i] = s.after;
  };
  if (axis.grid) {
    for (int32_t i = 0; i < count; ++i) put(i, grid_sample_at(axis, axis.begin + i, mask_size));
  } else {
    for (int32_t i = 0; i < count; ++i) put(i, upsample_at(axis, axis.begin + i, mask_size));
  }
}

// out[j * stride + i] = in[i * size + j]
void transpose(const float* in, int64_t size, float* out, int64_t stride) {
  int64_t whole = 0;
#if defined(__x86_64__)
  whole = size / 4 * 4;
  constexpr int64_t line = 16;  // numbers of `out` that are written one after the other
  for (int64_t block = 0; block < whole; block += line) {
    const int64_t end = block + line < whole ? block + line : whole;
    for (int64_t j = 0; j < whole; j += 4) {
      for (int64_t i = block; i < end; i += 4) {
        const float* from = in + i * size + j;
        float* to = out + j * stride + i;
        __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + size);
        __m128 c = _mm_loadu_ps(from + 2 * size), d = _mm_loadu_ps(from + 3 * size);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        _mm_storeu_ps(to, a);
        _mm_storeu_ps(to + stride, b);
        _mm_storeu_ps(to + 2 * stride, c);
        _mm_storeu_ps(to + 3 * stride, d);
      }
    }
  }
#endif
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = i < whole ? whole : 0; j < size; ++j) out[j * stride + i] = in[i * size + j];
}

float pad(const float* mask, int64_t size, bool columns, float* samples, int64_t stride) {
  __builtin_memset(samples, 0, stride * sizeof(float));
  __builtin_memset(samples + (size + 1) * stride, 0, stride * sizeof(float));
  for (int64_t i = 1; i <= size; ++i) {
    samples[i * stride] = 0;
    __builtin_memset(samples + i * stride + size + 1, 0, (stride - size - 1) * sizeof(float));
  }
  // as integers, magnitudes order as they do as numbers, and above all numbers are inf, then NaN
  int32_t largest = 0;
  for (int64_t i = 0; i < size * size; ++i) {
    int32_t bits;
    __builtin_memcpy(&bits, mask + i, sizeof(bits));
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  float* inside = samples + stride + 1;
  if (columns) {
    transpose(mask, size, inside, stride);
  } else {
    for (int64_t i = 0; i < size; ++i)
      __builtin_memcpy(inside + i * stride, mask + i * size, size * sizeof(float));
  }
  float magnitude;
  __builtin_memcpy(&magnitude, &largest, sizeof(magnitude));
  return magnitude;
}

// One bit per lane: whether x > y there.
DYNAMASK_INLINE uint64_t greater(Vec<float> x, Vec<float> y) {
#if defined(DYNAMASK_VARIANT_avx512)
  return _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ);
#elif defined(DYNAMASK_VARIANT_avx2)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)(x > y)));
#elif defined(__x86_64__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)(x > y)));
#else
  uint64_t bits = 0;
  for (int i = 0; i < kLanes<float>; ++i) bits |= uint64_t(x[i] > y[i]) << i;
  return bits;
#endif
}

struct Changes {
  int32_t* at;
  int64_t count = 0;
  bool on = false;

  __attribute__((always_inline)) void become(bool state, int32_t pixel) {
    if (state == on) return;
    at[count++] = pixel;
    on = state;
  }
};

// The pixels between samples `cell` and `cell` + 1 of a line, where the threshold may be crossed.
DYNAMASK_INLINE void cross(const PasteLines& p, const float* line, float before, float after,
                           int32_t cell, Changes& out) {
  const int32_t begin = p.first_pixel[cell], end = p.first_pixel[cell + 1];
  if (begin == end) return;
  const float value = p.values[cell], slope = p.values[cell + 1] - value;
  int32_t first = begin, last = end;  // the pixels that have to be computed
  const bool rising = slope > 0;
  if (__builtin_fabsf(slope) > 4 * p.doubt) {
    // go to where the line through both samples crosses, then as far as its values are in doubt
    const float crossing = (p.threshold - value) / slope;
    const float guess = (crossing - p.table.after[begin]) * p.pixels_per_cell;
    const int32_t span = end - begin;
    first = begin + (guess > 0 ? (guess < span ? static_cast<int32_t>(guess) + 1 : span) : 0);
    last = first;
    const float sign = rising ? 1.f : -1.f;
    const auto beyond = [&](int32_t pixel) {
      return (value - p.threshold + p.table.after[pixel] * slope) * sign;
    };
    while (first > begin && !(beyond(first - 1) < -p.doubt)) --first;
    while (last < end && !(beyond(last) > p.doubt)) ++last;
    if (first > begin) out.become(!rising, begin);
  }
  const float* next = line + p.stride;
  const float a = line[cell], d = next[cell + 1];
  const float b = p.columns ? next[cell] : line[cell + 1],
              c = p.columns ? line[cell + 1] : next[cell];
  for (int32_t i = first; i < last; ++i) {
    const float near = p.table.before[i], far = p.table.after[i];
    const float exact = p.columns ? paste_value(p.order, a, b, c, d, before, after, near, far)
                                  : paste_value(p.order, a, b, c, d, near, far, before, after);
    out.become(exact >= p.threshold, i);
  }
  if (last < end) out.become(rising, last);
}

int64_t changes(const PasteLines& p, int32_t line_cell, float before, float after, int32_t* at) {
  constexpr int32_t step = kLanes<float>;
  const float* line = p.samples + line_cell * p.stride;
  const int32_t begin = p.table.cell[0], end = p.table.cell[p.pixels - 1] + 1;  // cells passed
  const auto low = broadcast(p.threshold - p.doubt), high = broadcast(p.threshold + p.doubt);
  Changes out{at};
  int32_t settled = begin;  // from this cell on up to the next unsettled one nothing changes
  const auto settle = [&](int32_t cell) {
    if (p.first_pixel[settled] < p.first_pixel[cell])
      out.become(p.values[settled] >= p.threshold, p.first_pixel[settled]);
  };
  uint64_t was_above = 0, was_below = 0;  // of the sample before `base`, in the lowest bit
  for (int32_t base = begin; base <= end; base += 64) {
    uint64_t above = 0, below = 0;
    for (int32_t i = 0; i < 64 && base + i <= end; i += step) {
      const float* from = line + base + i;
      const Vec<float> value = load(from) * before + load(from + p.stride) * after;
      store(p.values + base + i, value);
      above |= greater(value, high) << i;
      below |= greater(low, value) << i;
    }
    // bit i: cell base + i - 1 is settled if both samples of it are above, or both below
    uint64_t bits = ~((above & (above << 1 | was_above)) | (below & (below << 1 | was_below)));
    if (base == begin) bits &= ~uint64_t(1);
    if (end - base < 63) bits &= (uint64_t{1} << (end - base + 1)) - 1;
    was_above = above >> 63, was_below = below >> 63;
    for (; bits; bits &= bits - 1) {
      const int32_t cell = base + __builtin_ctzll(bits) - 1;
      settle(cell);
      cross(p, line, before, after, cell, out);
      settled = cell + 1;
    }
  }
  settle(end);
  out.become(false, p.pixels);
  return out.count;
}

}  // namespace

extern const PasteMasksKernels paste_masks_kernels;
const PasteMasksKernels paste_masks_kernels = {&tabulate, &pad, &changes};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
