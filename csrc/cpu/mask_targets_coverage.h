// How much of each bin of a box is foreground: what mask_targets of bitmasks and of run-length
// masks have in common.

#pragma once

#include <cstdint>
#include <vector>

#include "cpu/simd/mask_targets_coverage.h"
#include "ops/mask_targets.h"

namespace dynamask {

// The foreground as runs along lines, which are rows or columns of a bitmap: line i changes at the
// positions bounds[starts[i - first_line]] up to the next, of which there is an even number.
struct Foreground {
  std::vector<int32_t> bounds;
  std::vector<int64_t> starts;
  int32_t first_line = 0;
  bool lines_are_columns = false;

  const int32_t* line(int32_t i) const { return bounds.data() + starts[i - first_line]; }
  int64_t count(int32_t i) const { return starts[i - first_line + 1] - starts[i - first_line]; }
  bool contains(int32_t line, int32_t position) const;
};

// Makes targets of boxes; keeps its memory from one to the next.
class CoverageTargets {
 public:
  // Writes out [S, S]. The foreground has to hold every line and position the axes tap.
  void operator()(const Foreground& foreground, const SampledAxis& y, const SampledAxis& x,
                  uint8_t* out);

 private:
  // The storage behind simd::AxisTaps
  struct Axis {
    std::vector<int32_t> first, end, offset, ended, started;
    std::vector<float> weights, sums, total, steps;
    simd::AxisTaps taps;

    void build(const SampledAxis& axis);

   private:
    void merge_samples(const SampledAxis& axis);
    void index_pixels();
  };

  Axis across_, along_;
  std::vector<float> reduced_, coverage_;
  std::vector<uint8_t> target_;
};

}  // namespace dynamask
