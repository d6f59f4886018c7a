// The parts of the stable ABI every CPU kernel uses, under short names, and the dtype switch.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace dynamask {

using torch::headeronly::ScalarType;
using torch::stable::contiguous;
using torch::stable::parallel_for;
using torch::stable::Tensor;

inline Tensor to(const Tensor& t, ScalarType dtype) {
  return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
}

// A fresh contiguous tensor on the device of `like`. Its memory is not initialised.
inline Tensor empty(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, sizes, dtype);
}

// Whether the channels of [N, C, H, W] lie innermost. As torch has it: a dimension of size 1 has no
// say, and what is contiguous either way counts as NCHW.
inline bool is_channels_last(const Tensor& t) {
  if (t.numel() == 0 || t.is_contiguous()) return false;
  int64_t stride = 1;
  for (const int d : {1, 3, 2, 0}) {
    if (t.size(d) != 1 && t.stride(d) != stride) return false;
    stride *= t.size(d);
  }
  return true;
}

inline bool is_float64(const Tensor& t) { return t.scalar_type() == ScalarType::Double; }

// The dtype sums are made in: fp64 for fp64, fp32 for fp32, fp16 and bf16.
inline ScalarType compute_dtype(const Tensor& t) {
  return is_float64(t) ? ScalarType::Double : ScalarType::Float;
}

// Calls f with a zero of the compute type: `with_compute_type(x, [&](auto zero) { using T =
// decltype(zero); ... })`.
template <typename F>
void with_compute_type(const Tensor& t, F&& f) {
  if (is_float64(t)) {
    f(double(0));
  } else {
    f(float(0));
  }
}

}  // namespace dynamask
