// Gradients that many threads add to the same places: by atomics as they come, or as whole numbers,
// whose sum is the same in any order.

#pragma once

#include <type_traits>

#include "cuda/launch.h"
#include "cuda/storage.h"

namespace dynamask::cuda {

// Sums of floating-point numbers by whoever comes first.
template <typename T>
struct FreeSums {
  using Sum = T;
  struct Terms {
    DYNAMASK_HOST_DEVICE Sum of(T x) const { return x; }
  };
  DYNAMASK_HOST_DEVICE Terms terms() const { return {}; }
};

// Sums of whole numbers: terms are rounded to multiples of a power of two, of which the largest
// term has 2^bits, so that no sum overflows. A largest that is not finite makes every sum NaN.
template <typename T>
struct FixedSums {
  using Sum = unsigned long long;
  const T* largest;  // magnitudes whose product no term exceeds
  int factors;       // how many of them
  int bits;

  DYNAMASK_HOST_DEVICE T unit() const {
    constexpr int kLowest = sizeof(T) == 8 ? -1022 : -126;  // so that 1 / unit is finite
    int exponent = -bits;
    for (int i = 0; i < factors; ++i) {
      if (!(largest[i] - largest[i] == 0)) return T(NAN);
      int of_factor;
      frexp(largest[i], &of_factor);
      exponent += of_factor;
    }
    return ldexp(T(1), exponent < kLowest ? kLowest : exponent);
  }

  struct Terms {
    T per_unit;
    DYNAMASK_HOST_DEVICE Sum of(T x) const {
      return static_cast<unsigned long long>(llrint(x * per_unit));
    }
  };
  DYNAMASK_HOST_DEVICE Terms terms() const { return {T(1) / unit()}; }
};

// How many bits the largest of `terms` terms may have for their sum to fit 63.
inline int bits_of_fixed_sums(int64_t terms) {
  int bits = 61;
  for (; terms > 0; terms /= 2) --bits;
  return bits;
}

template <typename Sum, int kCount>
__device__ void add_to(Sum* place, const Pack<Sum, kCount>& part) {
#if !defined(__CUDACC__) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
  if constexpr (std::is_same_v<Sum, float> && kCount == 4)
    atomicAdd(reinterpret_cast<float4*>(place),
              float4{part.value[0], part.value[1], part.value[2], part.value[3]});
  else
#endif
    for (int c = 0; c < kCount; ++c) atomicAdd(place + c, part.value[c]);
}

constexpr int kSumThreads = 256;

// A thread owns every so many-th number; a warp adds the largest magnitude of its own to that of
// all, NaN above all, by one atomic maximum. Bound by memory.
template <typename S, typename T>
__global__ void largest_magnitude_kernel(const S* values, int64_t count, T* largest) {
  using Bits = std::conditional_t<sizeof(T) == 8, unsigned long long, unsigned>;
  Bits most = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const T magnitude = fabs(wide(values[i]));
    Bits bits;  // of numbers without a sign, order as they do
    memcpy(&bits, &magnitude, sizeof(bits));
    most = bits > most ? bits : most;
  }
  for (int by = 16; by > 0; by /= 2) {
    const Bits other = __shfl_xor_sync(~0u, most, by);
    most = other > most ? other : most;
  }
  if (threadIdx.x % 32 == 0) atomicMax(reinterpret_cast<Bits*>(largest), most);
}

// `largest` starts as zero.
template <typename S, typename T>
void largest_magnitude(Stream stream, const S* values, int64_t count, T* largest) {
  const int64_t blocks = ceil_divide(count, kSumThreads);
  if (count > 0)
    launch(stream, blocks < 1024 ? blocks : 1024, kSumThreads, largest_magnitude_kernel<S, T>,
           values, count, largest);
}

// A thread owns a number: the sum as a floating-point number. Bound by memory.
template <typename S, typename T>
__global__ void from_fixed_sums_kernel(const unsigned long long* in, int64_t count,
                                       FixedSums<T> sums, S* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) out[i] = narrow<S>(T(static_cast<long long>(in[i])) * sums.unit());
}

template <typename S, typename T>
void from_fixed_sums(Stream stream, const unsigned long long* in, int64_t count,
                     const FixedSums<T>& sums, S* out) {
  if (count > 0)
    launch(stream, ceil_divide(count, kSumThreads), kSumThreads, from_fixed_sums_kernel<S, T>, in,
           count, sums, out);
}

}  // namespace dynamask::cuda
