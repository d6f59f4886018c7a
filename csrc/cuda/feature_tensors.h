// Feature maps and other tensors of any floating dtype, as their kernels read them.

#pragma once

#include "cuda/storage.h"
#include "cuda/tensor.h"

namespace dynamask::cuda {

using torch::headeronly::MemoryFormat;

inline MemoryFormat format_of(bool rows) {
  return rows ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// As torch has it: a dimension of size 1 has no say, and what is contiguous either way is NCHW.
inline bool is_channels_last(const Tensor& t) {
  if (t.numel() == 0 || t.is_contiguous()) return false;
  int64_t stride = 1;
  for (const int d : {1, 3, 2, 0}) {
    if (t.size(d) != 1 && t.stride(d) != stride) return false;
    stride *= t.size(d);
  }
  return true;
}

inline Tensor empty_maps(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype,
                         bool rows) {
  return torch::stable::empty(sizes, dtype, std::nullopt, like.device(), std::nullopt,
                              format_of(rows));
}

// Rows as they are, or copied into the other format.
inline Tensor in_format(const Tensor& images, bool rows) {
  if (rows) return images;
  const Tensor& t = images;
  auto out = empty_maps(t, {t.size(0), t.size(1), t.size(2), t.size(3)}, t.scalar_type(), false);
  torch::stable::copy_(out, t);
  return out;
}

// The dtype sums are made in: fp64 for fp64, fp32 for fp32, fp16 and bf16.
inline ScalarType sum_dtype(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Calls f with a zero of the type t is stored in and a zero of the type its sums are made in.
template <typename F>
void with_storage_type(const Tensor& t, F&& f) {
  switch (t.scalar_type()) {
    case ScalarType::Double:
      return f(double{}, double{});
    case ScalarType::Float:
      return f(float{}, float{});
    case ScalarType::Half:
      return f(Float16{}, float{});
    case ScalarType::BFloat16:
      return f(BFloat16{}, float{});
    default:
      STD_TORCH_CHECK(false, "expected a tensor of a floating dtype");
  }
}

}  // namespace dynamask::cuda
