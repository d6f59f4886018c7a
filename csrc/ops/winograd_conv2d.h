// winograd_conv2d: the 3x3 convolution, stride 1, a ring of zeros around the image, for known
// weights.
//
//   out[n, o, y, x] = bias[o] + sum_{c, i, j} weight[o, c, i, j] * input[n, c, y + i - 1, x + j -
//   1]
//
// by Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, https://arxiv.org/abs/1509.09308): a
// patch of 6 x 6 pixels and the 3 x 3 weights are polynomials, evaluated at the points 0, +-a, +-b
// and infinity along both axes; a product per point, summed over channels, and 4 x 4 pixels come
// back by interpolation. That is 36 products instead of 144.
//
// With a = 5/8 and b = 3/2, both exact in binary, rounding errors are less than a half of those
// with the usual 1 and 2; they are about five times those of a blocked direct sum.

#pragma once

#include <cstdint>

namespace dynamask::winograd {

constexpr double kA = 0.625, kB = 1.5;
constexpr int64_t kTile = 4, kPatch = 6, kPoints = 36;
// Transformed weights lie as [point, panel, C, panel of out channels].
constexpr int64_t kPanel = 32;

struct Shape {
  int64_t batch, channels, height, width, out_channels;
  int64_t tiles_down() const { return (height + kTile - 1) / kTile; }
  int64_t tiles_across() const { return (width + kTile - 1) / kTile; }
  int64_t tiles() const { return batch * tiles_down() * tiles_across(); }
  int64_t panels() const { return (out_channels + kPanel - 1) / kPanel; }
};

// Three weights along an axis at the six points.
inline void at_points(const double g[3], double* at, int64_t stride) {
  const double of_zero = 1 / (kA * kA * kB * kB);
  const double of_a = 1 / (2 * kA * kA * (kA * kA - kB * kB));
  const double of_b = 1 / (2 * kB * kB * (kB * kB - kA * kA));
  at[0 * stride] = g[0] * of_zero;
  at[1 * stride] = (g[0] + kA * g[1] + kA * kA * g[2]) * of_a;
  at[2 * stride] = (g[0] - kA * g[1] + kA * kA * g[2]) * of_a;
  at[3 * stride] = (g[0] + kB * g[1] + kB * kB * g[2]) * of_b;
  at[4 * stride] = (g[0] - kB * g[1] + kB * kB * g[2]) * of_b;
  at[5 * stride] = g[2];
}

// 3 x 3 weights at the 36 points.
template <typename T>
void at_points(const T* weight, double at[kPoints]) {
  double rows[3][kPatch];
  for (int i = 0; i < 3; ++i) {
    const double row[3] = {double(weight[3 * i]), double(weight[3 * i + 1]),
                           double(weight[3 * i + 2])};
    at_points(row, rows[i], 1);
  }
  for (int x = 0; x < kPatch; ++x) {
    const double column[3] = {rows[0][x], rows[1][x], rows[2][x]};
    at_points(column, at + x, kPatch);
  }
}

}  // namespace dynamask::winograd
