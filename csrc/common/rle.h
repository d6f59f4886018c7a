// COCO's run-length masks: lengths of runs down the columns, column after column, background first.
//
// Compressed, each length is a number in groups of five bits, lowest first, one character
// 48 + group per group, with 32 added if more follow; bit 16 of the last group is the sign. From
// the fourth length on, what is written is the difference to the length two before, since columns
// resemble their neighbours.
//
// Everything that parses refuses what no encoder writes, with the place and the reason, and before
// anything of the claimed size is allocated. No torch and no Python in here.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace dynamask::rle {

using Runs = std::vector<uint32_t>;

// Larger images are refused: a header of a few bytes could otherwise ask for any amount of memory.
constexpr int64_t kMaxPixels = (int64_t{1} << 31) - 1;

[[noreturn]] inline void refuse(const std::string& expected, const std::string& got) {
  throw std::invalid_argument("rle: expected " + expected + ", got " + got);
}

// The number of pixels of an image.
inline int64_t pixels_of(int64_t height, int64_t width) {
  const auto size = "[" + std::to_string(height) + ", " + std::to_string(width) + "]";
  if (height < 0 || width < 0) refuse("a size of no negative numbers", size);
  if (height > 0 && width > kMaxPixels / height)
    refuse("a size of at most " + std::to_string(kMaxPixels) + " pixels", size);
  return height * width;
}

// Appends one number to a compressed string.
template <typename Text>
void append_number(Text& text, int64_t x) {
  for (;;) {
    const int group = static_cast<int>(x & 31);
    x >>= 5;
    const bool last = (group & 16) ? x == -1 : x == 0;
    text.push_back(static_cast<typename Text::value_type>(48 + (last ? group : group | 32)));
    if (last) return;
  }
}

// Appends the compressed string of runs.
template <typename Text>
void append_runs(Text& text, const uint32_t* runs, size_t count) {
  for (size_t i = 0; i < count; ++i)
    append_number(text, int64_t{runs[i]} - (i > 2 ? int64_t{runs[i - 2]} : 0));
}

inline std::string to_string(const Runs& runs) {
  std::string text;
  text.reserve(runs.size() * 2);
  append_runs(text, runs.data(), runs.size());
  return text;
}

// Reads the number that starts at `place` and moves `place` past it.
inline int64_t parse_number(std::string_view text, size_t& place) {
  const size_t start = place;
  uint64_t x = 0;
  for (int shift = 0;; shift += 5) {
    if (place == text.size())
      refuse("the rest of the number at byte " + std::to_string(start) + " of counts",
             "the end after " + std::to_string(text.size()) + " bytes");
    // seven groups hold any difference of two runs of kMaxPixels
    if (shift == 35)
      refuse("a number of at most 7 bytes at byte " + std::to_string(start) + " of counts",
             "one that goes on");
    const auto byte = static_cast<unsigned char>(text[place]);
    if (byte < 48 || byte > 111)
      refuse("a byte in [48, 111] at byte " + std::to_string(place) + " of counts",
             std::to_string(byte));
    ++place;
    const uint64_t group = byte - 48u;
    x |= (group & 31) << shift;
    if (group & 32) continue;
    if (group & 16) x |= ~uint64_t{0} << (shift + 5);
    return static_cast<int64_t>(x);
  }
}

// Takes run lengths one by one and refuses those that do not make up `pixels`.
class CheckedRuns {
 public:
  CheckedRuns(int64_t pixels, size_t capacity) : pixels_(pixels) { runs_.reserve(capacity); }

  const Runs& runs() const { return runs_; }

  void add(int64_t run, const std::string& where) {
    if (run < 0) refuse("a run of at least 0 pixels " + where, std::to_string(run));
    if (run > pixels_ - sum_)
      refuse("runs of " + std::to_string(pixels_) + " pixels together",
             "more with the run of " + std::to_string(run) + " " + where);
    sum_ += run;
    runs_.push_back(static_cast<uint32_t>(run));
  }

  Runs finish() {
    if (sum_ != pixels_)
      refuse("runs of " + std::to_string(pixels_) + " pixels together", std::to_string(sum_));
    return std::move(runs_);
  }

 private:
  int64_t pixels_, sum_ = 0;
  Runs runs_;
};

// The runs of a compressed string.
inline Runs from_string(std::string_view text, int64_t pixels) {
  CheckedRuns checked(pixels, text.size());
  for (size_t place = 0; place < text.size();) {
    const size_t start = place;
    int64_t run = parse_number(text, place);
    const Runs& before = checked.runs();
    if (before.size() > 2) run += before[before.size() - 2];
    checked.add(run, "at byte " + std::to_string(start) + " of counts");
  }
  return checked.finish();
}

// The runs of an uncompressed list.
inline Runs from_list(const std::vector<int64_t>& list, int64_t pixels) {
  CheckedRuns checked(pixels, list.size());
  for (size_t i = 0; i < list.size(); ++i)
    checked.add(list[i], "at index " + std::to_string(i) + " of counts");
  return checked.finish();
}

// The runs of pixels in column-major order; any value but 0 is foreground.
inline Runs from_pixels(const uint8_t* pixel, int64_t count) {
  constexpr uint64_t kOnes = 0x0101010101010101, kLow = 0x7f7f7f7f7f7f7f7f;
  Runs runs;
  bool on = false;
  int64_t start = 0;
  for (int64_t i = 0; i < count;) {
    if (i + 8 <= count) {
      uint64_t eight;
      std::memcpy(&eight, pixel + i, 8);
      // each byte 1 where the pixel differs from the run
      const uint64_t differs = ((((eight & kLow) + kLow) | eight) >> 7 & kOnes) ^ (on ? kOnes : 0);
      i += differs ? __builtin_ctzll(differs) / 8 : 8;
      if (!differs) continue;
    } else if ((pixel[i] != 0) == on) {
      ++i;
      continue;
    }
    runs.push_back(static_cast<uint32_t>(i - start));
    start = i;
    on = !on;
  }
  runs.push_back(static_cast<uint32_t>(count - start));
  return runs;
}

// Writes 0 and 1 in column-major order.
inline void to_pixels(const Runs& runs, uint8_t* pixel) {
  int value = 0;
  for (const uint32_t run : runs) {
    std::memset(pixel, value, run);
    pixel += run;
    value = !value;
  }
}

inline int64_t area(const Runs& runs) {
  int64_t sum = 0;
  for (size_t i = 1; i < runs.size(); i += 2) sum += runs[i];
  return sum;
}

struct Box {
  int64_t x = 0, y = 0, width = 0, height = 0;

  bool meets(const Box& b) const {
    return x < b.x + b.width && b.x < x + width && y < b.y + b.height && b.y < y + height;
  }
};

// The smallest box of pixels around the foreground; zeros if there is none.
inline Box box(const Runs& runs, int64_t height) {
  int64_t x0 = kMaxPixels, y0 = kMaxPixels, x1 = -1, y1 = -1, start = 0;
  for (size_t i = 0; i < runs.size(); start += runs[i++]) {
    if (i % 2 == 0 || runs[i] == 0) continue;
    const int64_t last = start + runs[i] - 1;
    x0 = std::min(x0, start / height), x1 = std::max(x1, last / height);
    const bool one_column = start / height == last / height;
    y0 = std::min(y0, one_column ? start % height : 0);
    y1 = std::max(y1, one_column ? last % height : height - 1);
  }
  return x1 < 0 ? Box{} : Box{x0, y0, x1 - x0 + 1, y1 - y0 + 1};
}

// Calls f(length, in_a, in_b) for each stretch over which neither mask of one image changes.
template <typename F>
void for_each_stretch(const Runs& a, const Runs& b, F&& f) {
  size_t i = 0, j = 0;
  int64_t left_a = 0, left_b = 0;
  for (;;) {
    while (left_a == 0 && i < a.size()) left_a = a[i++];
    while (left_b == 0 && j < b.size()) left_b = b[j++];
    const int64_t length = std::min(left_a, left_b);
    if (length == 0) return;
    f(length, i % 2 == 0, j % 2 == 0);
    left_a -= length, left_b -= length;
  }
}

// The union of two masks of one image, or their intersection.
inline Runs merge(const Runs& a, const Runs& b, bool intersect) {
  Runs out;
  out.reserve(a.size() + b.size());
  bool on = false;
  int64_t length = 0;
  for_each_stretch(a, b, [&](int64_t stretch, bool in_a, bool in_b) {
    if ((intersect ? in_a && in_b : in_a || in_b) != on) {
      out.push_back(static_cast<uint32_t>(length));
      length = 0;
      on = !on;
    }
    length += stretch;
  });
  out.push_back(static_cast<uint32_t>(length));
  return out;
}

// Intersection over union; over the area of `a` alone if `b` is a crowd.
inline double iou(const Runs& a, const Runs& b, bool crowd) {
  int64_t both = 0, either = 0;
  for_each_stretch(a, b, [&](int64_t stretch, bool in_a, bool in_b) {
    both += in_a && in_b ? stretch : 0;
    either += in_a || in_b ? stretch : 0;
  });
  if (both == 0) return 0;
  return static_cast<double>(both) / static_cast<double>(crowd ? area(a) : either);
}

}  // namespace dynamask::rle
