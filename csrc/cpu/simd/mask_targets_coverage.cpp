#include "cpu/simd/mask_targets_coverage.h"

#include "cpu/simd/bits.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

int64_t find_bounds(const uint8_t* row, int64_t begin, int64_t end, int32_t* bounds) {
  int64_t count = 0;
  uint64_t last = 0;  // the pixel before, in bit 0
  for (int64_t x = begin; x < end; x += 64) {
    const uint64_t bits = nonzero_bits(row + x, end - x < 64 ? end - x : 64);
    for (uint64_t turns = bits ^ (bits << 1 | last); turns; turns &= turns - 1) {
      const int64_t at = x + __builtin_ctzll(turns);
      bounds[count++] = int32_t(at < end ? at : end);
    }
    last = bits >> 63;
  }
  if (count % 2) bounds[count++] = int32_t(end);
  return count;
}

DYNAMASK_INLINE int32_t limit(int32_t x, int32_t high) { return x < 0 ? 0 : x < high ? x : high; }

void reduce_line(const int32_t* bounds, int64_t count, const AxisTaps& taps, float* reduced) {
  for (int32_t j = 0; j < taps.size; ++j) reduced[j] = 0;
  const auto sum_before = [&](int32_t j, int32_t pixel) {
    return taps.sums[taps.offset[j] + j + pixel - taps.first[j]];
  };
  for (int64_t i = 0; i < count; i += 2) {
    const int32_t from = limit(bounds[i] - taps.first_pixel, taps.length);
    const int32_t to = limit(bounds[i + 1] - taps.first_pixel, taps.length);
    if (from >= to) continue;
    // all taps before `to` without those before `from`: bins cut by an end are looked up
    for (int32_t j = taps.ended[from]; j < taps.started[from]; ++j)
      reduced[j] -= sum_before(j, from);
    for (int32_t j = taps.ended[from]; j < taps.ended[to]; ++j) reduced[j] += taps.total[j];
    for (int32_t j = taps.ended[to]; j < taps.started[to]; ++j) reduced[j] += sum_before(j, to);
  }
}

void add_lines(const float* lines, const float* weights, int64_t count, int64_t size, float* out) {
  constexpr int64_t step = kLanes<float>;
  int64_t j = 0;
  for (; j + step <= size; j += step) {
    Vec<float> sum{};
    for (int64_t i = 0; i < count; ++i)
      sum = fma<float>(broadcast(weights[i]), load(lines + i * size + j), sum);
    store(out + j, sum);
  }
  if (j < size) {
    Vec<float> sum{};
    for (int64_t i = 0; i < count; ++i)
      sum = fma<float>(broadcast(weights[i]), load_partial(lines + i * size + j, size - j), sum);
    store_partial(out + j, sum, size - j);
  }
}

bool threshold(const float* coverage, float margin, int64_t size, uint8_t* target) {
  int32_t close = 0;
  for (int64_t j = 0; j < size; ++j) {
    const float above = coverage[j] - .5f;
    target[j] = above >= 0;
    close |= above <= margin && above >= -margin;
  }
  return close != 0;
}

}  // namespace

extern const CoverageKernels coverage_kernels;
const CoverageKernels coverage_kernels = {&find_bounds, &reduce_line, &add_lines, &threshold};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
