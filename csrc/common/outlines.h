// Between run-length masks and polygons. No torch and no Python in here.

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/polygon.h"
#include "common/rle.h"

namespace dynamask {

using Ring = std::vector<double>;  // x0, y0, x1, y1, ... in pixels

// The union of rings of finite corners, each filled by the rule of common/polygon.h.
inline rle::Runs fill_rings(const std::vector<Ring>& rings, int64_t height, int64_t width) {
  const int64_t pixels = rle::pixels_of(height, width);
  struct Turn {
    int64_t pixel;
    size_t ring;
  };
  std::vector<Turn> turns;
  std::vector<FineVertex> corners;
  for (size_t r = 0; r < rings.size(); ++r) {
    corners.clear();
    for (size_t i = 0; i + 1 < rings[r].size(); i += 2)
      corners.push_back(fine_vertex(rings[r][i], rings[r][i + 1], int32_t(width)));
    for (size_t i = 0; i < corners.size(); ++i)
      for_each_turn(
          corners[i], corners[(i + 1) % corners.size()], int32_t(height),
          [&](int32_t column, int32_t row) { turns.push_back({column * height + row, r}); });
  }
  std::sort(turns.begin(), turns.end(),
            [](const Turn& a, const Turn& b) { return a.pixel < b.pixel; });

  rle::Runs runs;
  std::vector<bool> inside(rings.size());
  size_t rings_around = 0;
  bool on = false;
  int64_t start = 0;
  for (size_t i = 0; i < turns.size() && turns[i].pixel < pixels;) {
    const int64_t pixel = turns[i].pixel;
    for (; i < turns.size() && turns[i].pixel == pixel; ++i) {
      inside[turns[i].ring] = !inside[turns[i].ring];
      inside[turns[i].ring] ? ++rings_around : --rings_around;
    }
    if ((rings_around > 0) == on) continue;
    runs.push_back(static_cast<uint32_t>(pixel - start));
    start = pixel;
    on = !on;
  }
  runs.push_back(static_cast<uint32_t>(pixels - start));
  return runs;
}

// Traces the outlines of a mask along the edges of its pixels.
//
// In each column a run of foreground has a side of length one at its top and one at its bottom.
// Every such side ends at a vertical line on its left and one on its right; along a line the ends
// pair up, each pair joined by a piece of outline. So the sides form closed rings: an outer one per
// 4-connected component and one per hole. The first side of an outer ring, going down the columns,
// is a top, that of a hole a bottom, with the top of the same run on a ring already known. To join
// a hole to it, the left ends of these two sides are paired with each other, and their former
// partners too. All four are on one line, and edges along a line fill nothing: the mask is the
// same.
class OutlineTracer {
 public:
  OutlineTracer(const rle::Runs& runs, int64_t height, int64_t width) {
    find_sides(runs, height, width);
    partner_.resize(2 * sides_.size());
    for (int64_t line = 0; line <= width; ++line) pair_ends_on(line, width);
  }

  // The rings, one for each component, in the order of their first pixels down the columns
  std::vector<Ring> rings() {
    std::vector<size_t> outer;
    std::vector<bool> known(sides_.size());
    for (size_t side = 0; side < sides_.size(); ++side) {
      if (known[side]) continue;
      if (is_top(side)) outer.push_back(side);
      follow(side, [&](size_t from, size_t) { known[from / 2] = true; });
      if (!is_top(side)) join_to_ring_above(side);
    }
    std::vector<Ring> rings;
    for (const size_t side : outer) {
      Ring ring;
      follow(side, [&](size_t from, size_t to) {
        if (y(from) == y(to)) return;
        for (const size_t end : {from, to}) {
          ring.push_back(double(line(end)));
          ring.push_back(double(y(end)));
        }
      });
      rings.push_back(std::move(ring));
    }
    return rings;
  }

 private:
  struct Side {
    int64_t column, y;
  };

  // Tops are the even sides, each followed by the bottom of its run. The ends of side s are
  // 2 * s on the left and 2 * s + 1 on the right.
  static bool is_top(size_t side) { return side % 2 == 0; }
  int64_t y(size_t end) const { return sides_[end / 2].y; }
  int64_t line(size_t end) const { return sides_[end / 2].column + int64_t(end % 2); }

  void find_sides(const rle::Runs& runs, int64_t height, int64_t width) {
    first_side_.reserve(width + 1);
    int64_t start = 0;
    for (size_t i = 0; i < runs.size(); start += runs[i++]) {
      if (i % 2 == 0) continue;
      for (int64_t from = start, end = start + runs[i]; from < end;) {
        const int64_t column = from / height, to = std::min(end, (column + 1) * height);
        first_side_.resize(std::max<size_t>(first_side_.size(), column + 1), sides_.size());
        sides_.push_back({column, from - column * height});
        sides_.push_back({column, to - column * height});
        from = to;
      }
    }
    first_side_.resize(width + 1, sides_.size());
  }

  void pair(size_t a, size_t b) {
    partner_[a] = b;
    partner_[b] = a;
  }

  // Pairs the right ends of the column before a line and the left ends of the column after it, from
  // the top down. Where foreground touches by a corner only, an end goes with its own pixel.
  void pair_ends_on(int64_t line, int64_t width) {
    size_t a = line > 0 ? first_side_[line - 1] : 0, a_end = line > 0 ? first_side_[line] : 0;
    size_t b = first_side_[line], b_end = line < width ? first_side_[line + 1] : b;
    constexpr size_t kNone = -1;
    size_t open = kNone;
    const auto take = [&](size_t end) {
      if (open == kNone) {
        open = end;
      } else {
        pair(open, end);
        open = kNone;
      }
    };
    while (a < a_end || b < b_end) {
      const bool tie = a < a_end && b < b_end && sides_[a].y == sides_[b].y;
      const bool left_first =
          tie ? !is_top(a) : b == b_end || (a < a_end && sides_[a].y < sides_[b].y);
      if (tie || left_first) {
        const size_t left = 2 * a++ + 1;
        if (!tie) {
          take(left);
          continue;
        }
        const size_t right = 2 * b++;
        take(left_first ? left : right);
        take(left_first ? right : left);
      } else {
        take(2 * b++);
      }
    }
  }

  // Calls visit(from, to) at each pair of ends around the ring of a side, left to right first.
  template <typename Visit>
  void follow(size_t side, Visit&& visit) const {
    const size_t start = 2 * side + 1;
    size_t from = start;
    do {
      const size_t to = partner_[from];
      visit(from, to);
      from = to ^ 1;
    } while (from != start);
  }

  void join_to_ring_above(size_t bottom) {
    const size_t lower = 2 * bottom, upper = 2 * (bottom - 1);
    const size_t lower_partner = partner_[lower], upper_partner = partner_[upper];
    pair(lower, upper);
    pair(lower_partner, upper_partner);
  }

  std::vector<Side> sides_;
  std::vector<size_t> first_side_;  // of each column, and the end
  std::vector<size_t> partner_;     // of each end
};

}  // namespace dynamask
