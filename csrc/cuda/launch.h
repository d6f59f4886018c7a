// How a kernel is started. The same line starts it on the CPU when csrc/hostcuda compiles it, so
// that an operator's sequence of kernels is proven as a whole.

#pragma once

#include "common/host_device.h"

#ifdef __CUDACC__

#include <torch/csrc/stable/macros.h>

#include <cstdint>

namespace dynamask::cuda {

using Stream = cudaStream_t;

template <typename... Parameters, typename... Arguments>
void launch(Stream stream, dim3 grid, dim3 threads, void (*kernel)(Parameters...),
            Arguments... arguments) {
  kernel<<<grid, threads, 0, stream>>>(arguments...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace dynamask::cuda

#else

#include "hostcuda/cuda_host.h"

namespace dynamask::cuda {

struct Stream {};

template <typename... Parameters, typename... Arguments>
void launch(Stream, dim3 grid, dim3 threads, void (*kernel)(Parameters...),
            Arguments... arguments) {
  hostcuda::launch(grid, threads, kernel, arguments...);
}

}  // namespace dynamask::cuda

#endif

namespace dynamask::cuda {

DYNAMASK_HOST_DEVICE constexpr int64_t ceil_divide(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}

}  // namespace dynamask::cuda
