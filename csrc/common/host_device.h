// One formula, compiled for the host and for the device.

#pragma once

#ifdef __CUDACC__
#define DYNAMASK_HOST_DEVICE __host__ __device__ __forceinline__
#else
// always_inline, so that no copy compiled for a newer instruction set can be linked in for an older
#define DYNAMASK_HOST_DEVICE inline __attribute__((always_inline))
#endif
