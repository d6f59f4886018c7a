// The weights of a convolution in the order in which the matrix product reads them.

#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/scratch.h"
#include "cpu/tensor.h"
#include "ops/deform_conv2d.h"

namespace dynamask {

// The weights of each group as panels [column, panel of out channels], the last filled with zeros.
template <typename T>
class PackedWeight {
 public:
  PackedWeight(const DeformConv2dShape& s, const T* weight, int64_t panel)
      : columns_(s.taps() * s.group_channels()),
        group_(round_up(s.group_out_channels(), panel) * columns_),
        panel_(panel),
        memory_(s.groups * group_) {
    const int64_t panels = group_ / std::max<int64_t>(1, columns_ * panel);
    parallel_for(0, s.groups * panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) pack(s, weight, i / panels, i % panels);
    });
  }

  const T* first(int64_t group, int64_t column) const {
    return memory_.data() + group * group_ + column * panel_;
  }
  int64_t panel_size() const { return columns_ * panel_; }

 private:
  void pack(const DeformConv2dShape& s, const T* weight, int64_t group, int64_t panel) {
    T* to = memory_.data() + group * group_ + panel * panel_size();
    const int64_t first = panel * panel_, taps = s.taps(), channels = s.group_channels();
    const int64_t count = std::min(panel_, s.group_out_channels() - first);
    const T* from = weight + (group * s.group_out_channels() + first) * columns_;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t k = 0; k < taps; ++k) {
        T* column = to + (k * channels + c) * panel_;
        for (int64_t o = 0; o < count; ++o) column[o] = from[o * columns_ + c * taps + k];
        std::fill(column + count, column + panel_, T(0));
      }
  }

  int64_t columns_, group_, panel_;
  Scratch<T> memory_;
};

}  // namespace dynamask
