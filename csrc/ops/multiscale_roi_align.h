// multiscale_roi_align: roi_align where every box picks its map of a feature pyramid by its size
// (Feature Pyramid Networks, equation 1), the whole pyramid in one call.
//
//   s = sqrt((x2 - x1) * (y2 - y1))
//   torchvision:  level = floor(canonical_level + log2(s / canonical_scale) + 1e-6)
//   detectron2:   level = floor(canonical_level + log2(s / canonical_scale + 1e-8))
//
// clamped to the levels that there are. A box of negative area has none and gives zeros, except
// where the pyramid has one map only: that one is then taken for every box.

#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "common/host_device.h"

namespace dynamask {

struct LevelRule {
  bool is_detectron2;
  double canonical_scale;
  int64_t canonical_level;
  int64_t first_level, num_levels;  // the finest map has stride 2^first_level

  // The position in the pyramid of a box of this size, or -1 if it has none.
  template <typename T>
  DYNAMASK_HOST_DEVICE int64_t level_of(T width, T height) const {
    if (num_levels == 1) return 0;
    const T ratio = std::sqrt(width * height) / T(canonical_scale);
    const T level = is_detectron2 ? T(canonical_level) + std::log2(ratio + T(1e-8))
                                  : T(canonical_level) + std::log2(ratio) + T(1e-6);
    const T position = std::floor(level) - T(first_level);
    if (!(position == position)) return -1;
    if (position < 0) return 0;
    return position < T(num_levels) ? static_cast<int64_t>(position) : num_levels - 1;
  }
};

// By the name of the rule, for a pyramid of these scales, finest first.
inline LevelRule level_rule_of(const std::string& name, double canonical_scale,
                               int64_t canonical_level, const std::vector<double>& scales) {
  const auto first_level = static_cast<int64_t>(std::lround(-std::log2(scales[0])));
  return {name == "detectron2", canonical_scale, canonical_level, first_level,
          static_cast<int64_t>(scales.size())};
}

}  // namespace dynamask
