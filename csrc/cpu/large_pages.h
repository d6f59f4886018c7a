// Fresh memory of tens of megabytes costs more to get than to fill: the system hands it out,
// zeroed, 4 KiB at a time. Asked for pages of 2 MiB it does so six times as fast.

#pragma once

#include <cstdint>

#include "cpu/tensor.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dynamask {

// For a fresh tensor that will be written whole. A hint: where it cannot be had, nothing happens.
inline void ask_for_large_pages(const Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 2 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(t.data_ptr());
  const uintptr_t end = begin + t.numel() * t.element_size();
  const uintptr_t first = (begin + page - 1) & ~(page - 1), last = end & ~(page - 1);
  if (last > first + page) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace dynamask
