// The parts of the stable ABI every CUDA operator uses, under short names.

#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <tuple>
#include <vector>

#include "cuda/launch.h"

namespace dynamask::cuda {

using torch::headeronly::ScalarType;
using torch::stable::contiguous;
using torch::stable::Tensor;

#ifdef __CUDACC__

// Makes the device of a tensor the current one, and names torch's current stream on it.
struct Device {
  torch::stable::accelerator::DeviceGuard guard;
  Stream stream;

  explicit Device(const Tensor& t) : guard(t.get_device()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device(), &current));
    stream = static_cast<Stream>(current);
  }
};

#define DYNAMASK_CUDA_SEATS(m) STABLE_TORCH_LIBRARY_IMPL(dynamask, CUDA, m)

#else  // on the CPU, in place of its own kernels: tests/hostcuda/test_seats.py

struct Device {
  Stream stream;
  explicit Device(const Tensor&) {}
};

#define DYNAMASK_CUDA_SEATS(m) STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m)

#endif

inline Tensor to(const Tensor& t, ScalarType dtype) {
  return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
}

// A fresh contiguous tensor on the device of `like`. Its memory is not initialised.
inline Tensor empty(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, sizes, dtype);
}

}  // namespace dynamask::cuda
