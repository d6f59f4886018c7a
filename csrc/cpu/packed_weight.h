// The weights of a convolution in the order in which the matrix product reads them.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/scratch.h"
#include "cpu/simd/gemm.h"
#include "cpu/simd/transpose.h"
#include "cpu/tensor.h"
#include "ops/deform_conv2d.h"

namespace dynamask {

// How many columns lie with their numbers in turn: the products of bf16 take them in pairs.
template <typename T>
constexpr int64_t kInterleaved = std::is_same_v<T, simd::BFloat16> ? 2 : 1;

template <typename T>
int64_t gemm_panel() {
  if constexpr (std::is_same_v<T, simd::BFloat16>)
    return simd::bf16_gemm_kernel()->panel;
  else
    return simd::gemm_kernels().of(T{}).panel;
}

// How many columns a tap takes: its channels, in bf16 with one of zeros after an odd number.
template <typename T>
int64_t tap_columns(const DeformConv2dShape& s) {
  return round_up(s.group_channels(), kInterleaved<T>);
}

// The weights of each group as panels [column, panel of out channels], the last filled with zeros.
// Columns go tap by tap. The panels are those of Gemm, for BFloat16 those of Bf16Gemm.
template <typename T>
class PackedWeight {
 public:
  PackedWeight(const DeformConv2dShape& s, const T* weight, int64_t panel)
      : out_channels_(s.group_out_channels()),
        columns_(s.taps() * tap_columns<T>(s)),
        group_(round_up(s.group_out_channels(), panel) * columns_),
        panel_(panel),
        memory_(s.groups * group_) {
    const int64_t panels = group_ / std::max<int64_t>(1, columns_ * panel);
    parallel_for(0, s.groups * panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) pack(s, weight, i / panels, i % panels);
    });
  }

  // From this column on, for BFloat16 an even one.
  const T* first(int64_t group, int64_t column) const {
    return memory_.data() + group * group_ + column * panel_;
  }
  int64_t panel_size() const { return columns_ * panel_; }

  // out = init + a b with b the weights of `depth` columns from `column` on; a [rows, depth], init
  // and out [rows, out channels of the group] as in Gemm.
  void multiply(int64_t group, int64_t column, int64_t depth, const T* a, int64_t a_row,
                int64_t rows, const simd::Wide<T>* init, int64_t init_row, simd::Wide<T>* out,
                int64_t out_row) const {
    const T* b = first(group, column);
    if constexpr (std::is_same_v<T, simd::BFloat16>)
      simd::bf16_gemm_kernel()->run(
          {rows, out_channels_, depth, a, a_row, b, panel_size(), init, init_row, out, out_row});
    else
      simd::gemm_kernels().of(T{}).run({rows, out_channels_, depth, a, a_row, 1, b, panel_size(),
                                        panel_, init, init_row, out, out_row});
  }

 private:
  void pack(const DeformConv2dShape& s, const T* weight, int64_t group, int64_t panel) {
    T* to = memory_.data() + group * group_ + panel * panel_size();
    const int64_t first = panel * panel_, taps = s.taps(), channels = s.group_channels();
    const int64_t count = std::min(panel_, s.group_out_channels() - first);
    if (count < panel_) std::fill_n(to, panel_size(), T{});
    Scratch<T> rows(count * columns_);  // (tap, channel) of each out channel
    if (channels < tap_columns<T>(s)) rows.fill_with_zeros();
    for (int64_t o = 0; o < count; ++o)
      simd::transpose_kernels().of(T{}).run(
          weight + (group * s.group_out_channels() + first + o) * channels * taps, taps,
          rows.data() + o * columns_, tap_columns<T>(s), channels, taps);
    transpose(rows.data(), to, count);
  }

  // Rows of columns to columns of rows; pairs of bf16 stay together, as if they were one fp32.
  void transpose(const T* rows, T* to, int64_t count) {
    using Whole = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const int64_t columns = columns_ / kInterleaved<T>;
    simd::transpose_kernels().of(Whole{}).run(reinterpret_cast<const Whole*>(rows), columns,
                                              reinterpret_cast<Whole*>(to), panel_, count, columns);
  }

  int64_t out_channels_, columns_, group_, panel_;
  Scratch<T> memory_;
};

}  // namespace dynamask
