// What goes between a test and a kernel: a file with one line of numbers and some arrays.

#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

// Memory of a GPU starts at multiples of 256 bytes.
void* operator new(std::size_t size) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, size) != 0) throw std::bad_alloc();
  return memory;
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return operator new(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace hostcuda {

// The arguments of a kernel, read in the order in which the test wrote them.
class Input {
 public:
  explicit Input(const char* path) : file_(std::fopen(path, "rb")) { require(file_); }
  ~Input() { std::fclose(file_); }
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  int64_t number() {
    int64_t value;
    require(std::fread(&value, sizeof(value), 1, file_) == 1);
    return value;
  }
  template <typename T>
  std::vector<T> array() {  // its own allocation, so that ASan sees where it ends
    std::vector<T> values(number());
    if (values.empty()) return values;
    require(std::fread(values.data(), sizeof(T), values.size(), file_) == values.size());
    return values;
  }

 private:
  static void require(bool fine) {
    if (!fine) std::perror("hostcuda: input"), std::exit(3);
  }
  std::FILE* file_;
};

// Memory as a GPU hands it out, not zeros: what no kernel writes reads as NaN or -1.
template <typename T>
std::vector<T> garbage(size_t count) {
  std::vector<T> values(count);
  if (count > 0) std::memset(static_cast<void*>(values.data()), 0xff, count * sizeof(T));
  return values;
}

class Output {
 public:
  explicit Output(const char* path) : file_(std::fopen(path, "wb")) {
    if (!file_) std::perror("hostcuda: output"), std::exit(3);
  }
  ~Output() { std::fclose(file_); }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  template <typename T>
  void array(const std::vector<T>& values) {
    if (!values.empty()) std::fwrite(values.data(), sizeof(T), values.size(), file_);
  }

 private:
  std::FILE* file_;
};

}  // namespace hostcuda
