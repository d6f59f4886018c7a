#include "cpu/mask_targets_coverage.h"

#include <algorithm>

namespace dynamask {

bool Foreground::contains(int32_t line_, int32_t position) const {
  const int32_t* begin = line(line_);
  return (std::upper_bound(begin, begin + count(line_), position) - begin) % 2;
}

void CoverageTargets::Axis::build(const SampledAxis& axis) {
  merge_samples(axis);
  index_pixels();
  const int32_t first_pixel = first.front();
  for (auto& pixel : first) pixel -= first_pixel;
  for (auto& pixel : end) pixel -= first_pixel;
  taps = {first_pixel,    end.back(),  axis.size,    first.data(), end.data(),    offset.data(),
          weights.data(), sums.data(), total.data(), ended.data(), started.data()};
}

// Adds up the taps of each bin. Bins beside the bitmap are empty and lie at its tapped ends.
void CoverageTargets::Axis::merge_samples(const SampledAxis& axis) {
  first.clear(), end.clear(), offset.clear(), weights.clear(), sums.clear(), total.clear();
  steps.resize(axis.samples);
  for (int64_t s = 0; s < axis.samples; ++s) steps[s] = axis.step(s);
  int32_t empty_before = 0;
  for (int32_t b = 0; b < axis.size; ++b) {
    const float corner = axis.corner(b);
    const auto begin = int32_t(weights.size());
    // samples ascend, so those on the bitmap are in one piece
    int64_t s0 = 0, s1 = axis.samples;
    if (corner + steps.front() > axis.length || corner + steps.back() < -1) s1 = 0;
    while (s0 < s1 && !axis.contains(corner + steps[s0])) ++s0;
    while (s0 < s1 && !axis.contains(corner + steps[s1 - 1])) --s1;
    const int32_t low = s0 < s1 ? axis.at(corner + steps[s0]).low : end.empty() ? 0 : end.back();
    const int32_t high = s0 < s1 ? axis.at(corner + steps[s1 - 1]).high + 1 : low;
    if (s0 == s1 && empty_before == b) ++empty_before;
    first.push_back(low), end.push_back(high), offset.push_back(begin);
    weights.resize(begin + high - low, 0);
    float* weight = weights.data() + begin - low;
    for (int64_t s = s0; s < s1; ++s) {
      const auto sample = axis.at(corner + steps[s]);
      weight[sample.low] += sample.at_low;
      weight[sample.high] += sample.at_high;
    }
    float sum = 0;
    for (int32_t pixel = low; pixel < high; ++pixel) {
      weight[pixel] /= float(axis.samples);
      sums.push_back(sum);
      sum += weight[pixel];
    }
    sums.push_back(sum), total.push_back(sum);
  }
  const int32_t first_tapped = empty_before < axis.size ? first[empty_before] : 0;
  for (int32_t b = 0; b < empty_before; ++b) first[b] = end[b] = first_tapped;
}

void CoverageTargets::Axis::index_pixels() {
  const int32_t size = int32_t(first.size()), low = first.front(), length = end.back() - low;
  ended.resize(length + 1), started.resize(length + 1);
  for (int32_t pixel = 0, e = 0, s = 0; pixel <= length; ++pixel) {
    while (e < size && end[e] - low <= pixel) ++e;
    while (s < size && first[s] - low < pixel) ++s;
    ended[pixel] = e, started[pixel] = s;
  }
}

void CoverageTargets::operator()(const Foreground& foreground, const SampledAxis& y,
                                 const SampledAxis& x, uint8_t* out) {
  const int64_t size = y.size;
  if (y.is_empty() || x.is_empty()) {
    std::fill_n(out, size * size, 0);
    return;
  }
  const auto& kernels = simd::coverage_kernels();
  const bool transposed = foreground.lines_are_columns;
  across_.build(transposed ? x : y);
  along_.build(transposed ? y : x);
  const auto& across = across_.taps;

  reduced_.resize(across.length * size);
  for (int32_t i = 0; i < across.length; ++i) {
    const int32_t line = across.first_pixel + i;
    kernels.reduce_line(foreground.line(line), foreground.count(line), along_.taps,
                        reduced_.data() + i * size);
  }
  coverage_.resize(size), target_.resize(size);
  const float margin = rounding_margin(y, x);
  const auto pixel = [&](int32_t row, int32_t column) -> float {
    return transposed ? foreground.contains(column, row) : foreground.contains(row, column);
  };
  for (int64_t b = 0; b < size; ++b) {
    kernels.add_lines(reduced_.data() + across.first[b] * size, across.weights + across.offset[b],
                      across.end[b] - across.first[b], size, coverage_.data());
    uint8_t* target = transposed ? target_.data() : out + b * size;
    if (kernels.threshold(coverage_.data(), margin, size, target)) {
      for (int64_t j = 0; j < size; ++j) {
        if (std::fabs(coverage_[j] - .5f) > margin) continue;
        const auto bin_y = int32_t(transposed ? j : b), bin_x = int32_t(transposed ? b : j);
        target[j] = average_of_samples(y, x, bin_y, bin_x, pixel) >= .5f;
      }
    }
    if (transposed)
      for (int64_t j = 0; j < size; ++j) out[j * size + b] = target[j];
  }
}

}  // namespace dynamask
