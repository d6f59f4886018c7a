// Memory for the time of a call.

#pragma once

#include <cstdint>
#include <cstring>
#include <new>

namespace dynamask {

// An array aligned to a cache line, so that no vector of it straddles two. Not initialised.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t size)
      : size_(size), data_(static_cast<T*>(::operator new(size * sizeof(T), kAlignment))) {}
  ~Scratch() { ::operator delete(data_, kAlignment); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void fill_with_zeros() { std::memset(static_cast<void*>(data_), 0, size_ * sizeof(T)); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  int64_t size_;
  T* data_;
};

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace dynamask
