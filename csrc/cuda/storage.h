// Numbers as they lie in memory, and 16 bytes of them at a time.

#pragma once

#include <cstdint>
#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

#include "common/host_device.h"
#include "cuda/launch.h"

namespace dynamask::cuda {

struct Float16 {
#ifdef __CUDACC__
  __half value;
#else
  _Float16 value;
#endif
};
struct BFloat16 {
  uint16_t bits;
};

DYNAMASK_HOST_DEVICE float wide(float x) { return x; }
DYNAMASK_HOST_DEVICE double wide(double x) { return x; }
DYNAMASK_HOST_DEVICE float wide(Float16 x) { return static_cast<float>(x.value); }
DYNAMASK_HOST_DEVICE float wide(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

template <typename S>
DYNAMASK_HOST_DEVICE S narrow(double x) {
  return static_cast<S>(x);
}
template <typename S>
DYNAMASK_HOST_DEVICE S narrow(float x) {
  if constexpr (sizeof(S) > 2) {
    return static_cast<S>(x);
  } else {
    S out;
    if constexpr (__is_same(S, Float16)) {
#ifdef __CUDACC__
      out.value = __float2half_rn(x);
#else
      out.value = static_cast<_Float16>(x);
#endif
    } else {  // to nearest, ties to even; NaN stays NaN
      uint32_t bits;
      memcpy(&bits, &x, sizeof(bits));
      out.bits = static_cast<uint16_t>(x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    return out;
  }
}

// Neighbours in memory, moved in one access.
template <typename S, int kCount>
struct alignas(sizeof(S) * kCount) Pack {
  S value[kCount];
};

}  // namespace dynamask::cuda
