// Sorting by the bytes of an unsigned key: stable, and faster than comparing from some tens on.

#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace dynamask {

template <typename Key>
struct Keyed {
  Key key;
  int64_t index;
};

template <typename Key>
void radix_sort(std::vector<Keyed<Key>>& items) {
  std::vector<std::array<int64_t, 256>> counts(sizeof(Key));
  for (auto& count : counts) count.fill(0);
  for (const auto& item : items)
    for (size_t byte = 0; byte < sizeof(Key); ++byte) ++counts[byte][item.key >> 8 * byte & 255];
  std::vector<Keyed<Key>> other(items.size());
  for (size_t byte = 0; byte < sizeof(Key) && !items.empty(); ++byte) {
    auto& next = counts[byte];
    const auto of_first = next[items[0].key >> 8 * byte & 255];
    if (of_first == static_cast<int64_t>(items.size())) continue;  // the same byte in all
    int64_t sum = 0;
    for (auto& count : next) {
      const int64_t here = count;
      count = sum;
      sum += here;
    }
    for (const auto& item : items) other[next[item.key >> 8 * byte & 255]++] = item;
    items.swap(other);
  }
}

// A key that grows as x falls. -0 and 0 are equal. Not for NaN.
template <typename T>
auto falling_key(T x) {
  using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr Key sign = Key(1) << (8 * sizeof(T) - 1);
  x += T(0);
  Key bits;
  std::memcpy(&bits, &x, sizeof(x));
  return bits & sign ? bits : Key(~bits & ~sign);
}

// A key that grows with x.
inline uint64_t rising_key(int64_t x) { return static_cast<uint64_t>(x) ^ uint64_t(1) << 63; }

}  // namespace dynamask
