#include "ops/winograd_conv2d.h"

#include <algorithm>

#include "cpu/images.h"
#include "cpu/large_pages.h"
#include "cpu/scratch.h"
#include "cpu/simd/gemm.h"
#include "cpu/simd/winograd_conv2d.h"
#include "cpu/tensor.h"

namespace dynamask {
namespace {

using winograd::kPatch;
using winograd::kPoints;
using winograd::kTile;

// Tiles that a thread transforms and multiplies at once: enough to make use of the weights, which
// come from the last cache, and few enough for their points to stay there.
constexpr int64_t kTilesAtOnce = 48, kFewestTiles = 12;
// The widest vector of any variant, in numbers.
constexpr int64_t kVector = 16;

// Images of S, sums of T.
template <typename S>
class WinogradConv2d {
  using T = simd::Wide<S>;

 public:
  WinogradConv2d(const winograd::Shape& s, const S* input, const T* weight, const T* bias,
                 bool relu, S* out)
      : s_(s),
        input_(input),
        weight_(weight),
        relu_(relu),
        out_(out),
        kernel_(simd::winograd_conv2d_kernels().of(S{})),
        gemm_(simd::gemm_kernels().of(T(0))),
        bias_(out_row()) {
    bias_.fill_with_zeros();
    std::copy_n(bias, s.out_channels, bias_.data());
  }

  void run() {
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t share = (s_.tiles() + threads - 1) / threads;
    at_once_ = std::clamp(share, kFewestTiles, kTilesAtOnce);
    const int64_t blocks = (s_.tiles() + at_once_ - 1) / at_once_;
    parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) { run_blocks(begin, end); });
  }

 private:
  int64_t in_row() const { return round_up(s_.channels, kVector); }
  int64_t out_row() const { return s_.panels() * winograd::kPanel; }
  // not a power of two, so that the points of a tile do not all fall into one set of the cache
  int64_t in_point() const { return at_once_ * in_row() + kVector; }
  int64_t out_point() const { return at_once_ * out_row() + kVector; }

  void run_blocks(int64_t begin, int64_t end) {
    Scratch<T> in(kPoints * in_point()), sums(kPoints * out_point());
    Scratch<S> patch(kPatch * kPatch * s_.channels), tile(kTile * kTile * s_.out_channels);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * at_once_, count = std::min(at_once_, s_.tiles() - first);
      for (int64_t t = 0; t < count; ++t) read(first + t, patch.data(), in.data() + t * in_row());
      multiply(count, in.data(), sums.data());
      for (int64_t t = 0; t < count; ++t)
        write(first + t, sums.data() + t * out_row(), tile.data());
    }
  }

  struct Place {
    int64_t image, y, x;
  };
  Place place(int64_t tile) const {
    const int64_t in_image = tile % (s_.tiles_down() * s_.tiles_across());
    return {tile / (s_.tiles_down() * s_.tiles_across()), in_image / s_.tiles_across() * kTile,
            in_image % s_.tiles_across() * kTile};
  }

  void read(int64_t t, S* patch, T* points) const {
    const auto [n, bottom, right] = place(t);
    const int64_t top = bottom - 1, left = right - 1, c = s_.channels;
    const S* image = input_ + n * s_.height * s_.width * c;
    if (top >= 0 && left >= 0 && top + kPatch <= s_.height && left + kPatch <= s_.width) {
      kernel_.to_points(image + (top * s_.width + left) * c, s_.width * c, c, c, points,
                        in_point());
      return;
    }
    for (int64_t y = 0; y < kPatch; ++y)
      for (int64_t x = 0; x < kPatch; ++x) {
        S* pixel = patch + (y * kPatch + x) * c;
        const int64_t from_y = top + y, from_x = left + x;
        if (from_y >= 0 && from_x >= 0 && from_y < s_.height && from_x < s_.width)
          std::copy_n(image + (from_y * s_.width + from_x) * c, c, pixel);
        else
          std::fill_n(pixel, c, S{});
      }
    kernel_.to_points(patch, kPatch * c, c, c, points, in_point());
  }

  // At every point the product [tiles, C] x [C, O].
  void multiply(int64_t tiles, const T* in, T* sums) const {
    const int64_t panel_size = s_.channels * winograd::kPanel;
    for (int64_t point = 0; point < kPoints; ++point)
      for (int64_t panel = 0; panel < s_.panels(); ++panel)
        gemm_.run({tiles, winograd::kPanel, s_.channels, in + point * in_point(), in_row(), 1,
                   weight_ + (point * s_.panels() + panel) * panel_size, gemm_.panel,
                   winograd::kPanel, nullptr, 0,
                   sums + point * out_point() + panel * winograd::kPanel, out_row()});
  }

  void write(int64_t t, const T* sums, S* tile) const {
    const auto [n, y, x] = place(t);
    const int64_t c = s_.out_channels;
    S* to = out_ + ((n * s_.height + y) * s_.width + x) * c;
    const int64_t rows = std::min(kTile, s_.height - y), columns = std::min(kTile, s_.width - x);
    if (rows == kTile && columns == kTile) {
      kernel_.to_pixels(sums, out_point(), bias_.data(), relu_, c, to, s_.width * c, c);
      return;
    }
    kernel_.to_pixels(sums, out_point(), bias_.data(), relu_, c, tile, kTile * c, c);
    for (int64_t row = 0; row < rows; ++row)
      std::copy_n(tile + row * kTile * c, columns * c, to + row * s_.width * c);
  }

  const winograd::Shape s_;
  const S* input_;
  const T* weight_;
  const bool relu_;
  S* out_;
  const simd::WinogradConv2dKernel<S>& kernel_;
  const simd::GemmKernel<T>& gemm_;
  Scratch<T> bias_;
  int64_t at_once_ = 0;
};

// Calls f with a zero of the type of numbers in memory.
template <typename F>
void with_storage_type(const Tensor& t, F&& f) {
  switch (t.scalar_type()) {
    case ScalarType::BFloat16:
      return f(simd::BFloat16{});
    case ScalarType::Half:
      return f(simd::Float16{});
    default:
      STD_TORCH_CHECK(t.scalar_type() == compute_dtype(t),
                      "winograd_conv2d: expected input of a floating dtype");
      return with_compute_type(t, f);
  }
}

bool has_channels_innermost(const Tensor& t) {
  return is_channels_last(t) ||
         (t.is_contiguous() && (t.size(1) == 1 || t.size(2) * t.size(3) == 1));
}

Tensor winograd_conv2d(const Tensor& input, const Tensor& weight_, const Tensor& bias_, bool relu) {
  STD_TORCH_CHECK(input.dim() == 4 && weight_.dim() == 4 && bias_.dim() == 1,
                  "winograd_conv2d: expected shapes that fit together");
  const winograd::Shape s{input.size(0), input.size(1), input.size(2), input.size(3),
                          bias_.size(0)};
  STD_TORCH_CHECK(weight_.size(0) == kPoints && weight_.size(1) == s.panels() &&
                      weight_.size(2) == s.channels && weight_.size(3) == winograd::kPanel,
                  "winograd_conv2d: expected shapes that fit together");
  STD_TORCH_CHECK(input.numel() == 0 || has_channels_innermost(input),
                  "winograd_conv2d: expected input in channels_last");
  const auto dtype = compute_dtype(input);
  const auto weight = contiguous(to(weight_, dtype)), bias = contiguous(to(bias_, dtype));
  auto out = empty_images(input, s.batch, s.out_channels, s.height, s.width, true);
  ask_for_large_pages(out);
  if (out.numel() > 0)
    with_storage_type(input, [&](auto zero) {
      using S = decltype(zero);
      using T = simd::Wide<S>;
      WinogradConv2d<S>(s, static_cast<const S*>(input.data_ptr()), weight.const_data_ptr<T>(),
                        bias.const_data_ptr<T>(), relu, static_cast<S*>(out.data_ptr()))
          .run();
    });
  return out;
}

Tensor winograd_conv2d_weight(const Tensor& weight) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3,
                  "winograd_conv2d: expected a weight [O, C, 3, 3]");
  const winograd::Shape s{0, weight.size(1), 0, 0, weight.size(0)};
  const auto dtype = compute_dtype(weight);
  const auto from = contiguous(to(weight, dtype));
  auto out = empty(from, {kPoints, s.panels(), s.channels, winograd::kPanel}, dtype);
  ask_for_large_pages(out);
  with_compute_type(from, [&](auto zero) {
    using T = decltype(zero);
    const T* g = from.const_data_ptr<T>();
    T* points = out.mutable_data_ptr<T>();
    const int64_t rows = s.panels() * s.channels, point = rows * winograd::kPanel;
    parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i / s.channels * winograd::kPanel, c = i % s.channels;
        for (int64_t o = 0; o < winograd::kPanel; ++o) {
          double at[kPoints] = {};  // zeros after the last output channel
          if (first + o < s.out_channels)
            winograd::at_points(g + ((first + o) * s.channels + c) * 9, at);
          for (int64_t p = 0; p < kPoints; ++p)
            points[p * point + i * winograd::kPanel + o] = T(at[p]);
        }
      }
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) {
  m.impl("winograd_conv2d", TORCH_BOX(&winograd_conv2d));
  m.impl("winograd_conv2d_weight", TORCH_BOX(&winograd_conv2d_weight));
}

}  // namespace dynamask
