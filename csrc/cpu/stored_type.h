// The switch over the floating dtypes, for kernels that read and write 16 bits as they lie in
// memory.

#pragma once

#include "cpu/simd/half.h"
#include "cpu/tensor.h"

namespace dynamask {

// Calls f with a zero of the type t is stored in and a zero of the type its sums are made in.
template <typename F>
void with_stored_type(const Tensor& t, F&& f) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return f(float{}, float{});
    case ScalarType::Double:
      return f(double{}, double{});
    case ScalarType::Half:
      return f(simd::Float16{}, float{});
    case ScalarType::BFloat16:
      return f(simd::BFloat16{}, float{});
    default:
      STD_TORCH_CHECK(false, "expected a tensor of a floating dtype");
  }
}

}  // namespace dynamask
