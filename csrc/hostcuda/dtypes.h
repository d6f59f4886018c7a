// The dtypes of features by the number that a test writes.

#pragma once

#include "cuda/storage.h"

namespace hostcuda {

// Calls run(S{}, T{}): what features of this dtype lie in memory as, and what they are summed in.
template <typename Run>
void with_dtype(int64_t number, Run&& run) {
  using dynamask::cuda::BFloat16, dynamask::cuda::Float16;
  switch (number) {
    case 0:
      return run(float{}, float{});
    case 1:
      return run(double{}, double{});
    case 2:
      return run(Float16{}, float{});
    default:
      return run(BFloat16{}, float{});
  }
}

}  // namespace hostcuda
