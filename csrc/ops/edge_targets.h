// edge_targets: the inner contour of binary masks, and the band around it.
//
// With f = 1 where a mask is not zero and 0 elsewhere and outside, and the 3 x 3 Laplacian
//
//   L(y, x) = 8 f(y, x) - (sum of the 8 neighbours of f at (y, x))
//
// an edge is where L > 0.1. As f is 0 or 1, that is: foreground with a neighbour in the background.
//   E(y, x) = f(y, x) and not all of f(y - 1 .. y + 1, x - 1 .. x + 1)
// The union with the response at stride 2, upsampled to the nearest, looks at the even sites alone:
//   E(y, x) or E(y - y % 2, x - x % 2)
//
// Blocks: the Laplacian of K x K, K = 2 width + 1, of f and of 1 - f. With c the number of ones
// among the K x K sites around (y, x), more than 0.1 K^2 of them unlike the one in the middle are
//   f(y, x) and K^2 - c >= m,  or  not f(y, x) and c >= m        m = floor(0.1 K^2) + 1
// and such a site is of block 1, the boundary; the rest is 2 in the foreground and 0 elsewhere.

#pragma once

#include <cstdint>

namespace dynamask {

struct EdgeTargetsShape {
  int64_t masks, height, width;
};

// How a dtype is read and written as the unsigned integer of its width: an element is foreground if
// `magnitude & bits` is not zero (so that -0. is background), and edges are written as `one`.
struct MaskBits {
  uint64_t magnitude, one;
};

// Calls f with how masks of this dtype are read and with an element of the width that has; false if
// masks cannot be of it.
template <typename Masks, typename F>
bool with_element(const Masks& masks, F&& f) {
  using Dtype = decltype(masks.scalar_type());
  switch (masks.scalar_type()) {
    case Dtype::Bool:
    case Dtype::Byte:
      f(MaskBits{0xff, 1}, uint8_t{});
      return true;
    case Dtype::Half:
      f(MaskBits{0x7fff, 0x3c00}, uint16_t{});
      return true;
    case Dtype::BFloat16:
      f(MaskBits{0x7fff, 0x3f80}, uint16_t{});
      return true;
    case Dtype::Float:
      f(MaskBits{0x7fffffff, 0x3f800000}, uint32_t{});
      return true;
    case Dtype::Double:
      f(MaskBits{0x7fffffffffffffff, 0x3ff0000000000000}, uint64_t{});
      return true;
    default:
      return false;
  }
}
constexpr const char* kWrongMasks =
    "edge_targets: expected masks of uint8, bool or a floating dtype";

struct Blocks {
  int width, sites, least;  // K^2 and m
  explicit Blocks(int width_)
      : width(width_), sites((2 * width + 1) * (2 * width + 1)), least(sites / 10 + 1) {}
};
constexpr int kMaxBlockWidth = 3;  // 49 sites: a count fits a byte with room to spare

}  // namespace dynamask
