#pragma once

#include <cstdint>

#include "cpu/simd/variants.h"

namespace dynamask::simd {

// The merged taps of the S bins of one axis. Positions count from the first pixel any bin taps.
struct AxisTaps {
  int32_t first_pixel, length, size;
  const int32_t *first, *end;   // [S]: bin j taps the pixels first[j] .. end[j] - 1
  const int32_t* offset;        // [S]: where bin j starts in `weights`; in `sums` at offset[j] + j
  const float *weights, *sums;  // the weight of each tap; the sum of the taps before, and of all
  const float* total;           // [S]: the sum of all taps of a bin
  const int32_t *ended, *started;  // [length + 1]: how many bins end, or have begun, before a pixel
};

struct CoverageKernels {
  // Positions in [begin, end) where a row turns from zero to nonzero or back, with `end` closing
  // the last run. Returns how many, at most end - begin + 1.
  int64_t (*find_bounds)(const uint8_t* row, int64_t begin, int64_t end, int32_t* bounds);
  // reduced [S] = for each bin the weights of those taps that are inside of runs
  void (*reduce_line)(const int32_t* bounds, int64_t count, const AxisTaps& taps, float* reduced);
  // out [S] = the weighted sum of `count` lines [S]
  void (*add_lines)(const float* lines, const float* weights, int64_t count, int64_t size,
                    float* out);
  // target [S] = coverage >= 0.5. Returns whether some value is within `margin` of 0.5.
  bool (*threshold)(const float* coverage, float margin, int64_t size, uint8_t* target);
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::CoverageKernels, coverage_kernels)
