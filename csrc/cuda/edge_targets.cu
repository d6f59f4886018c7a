#include <algorithm>

#include "cuda/edge_targets.cuh"
#include "cuda/tensor.h"

namespace dynamask::cuda {
namespace {

// Masks, and the tensors that answer them.
struct Given {
  std::vector<Tensor> masks, out;

  Given(const std::vector<Tensor>& all, std::optional<ScalarType> dtype) {
    STD_TORCH_CHECK(all.size() <= kMaxMaskSizes, "edge_targets: expected at most ", kMaxMaskSizes,
                    " sizes, got ", all.size());
    for (const Tensor& of_size : all) {
      STD_TORCH_CHECK(of_size.dim() == 3, "edge_targets: expected masks [N, S, S]");
      masks.push_back(contiguous(of_size));
      const std::vector<int64_t> size{of_size.size(0), of_size.size(1), of_size.size(2)};
      out.push_back(empty(of_size, size, dtype.value_or(of_size.scalar_type())));
    }
  }

  // Calls f(dtype, how it is read, an element of its width) for each dtype: a launch takes one.
  template <typename F>
  void of_each_dtype(F f) const {
    std::vector<ScalarType> dtypes;
    for (const Tensor& of_size : masks) {
      const ScalarType dtype = of_size.scalar_type();
      if (std::find(dtypes.begin(), dtypes.end(), dtype) != dtypes.end()) continue;
      dtypes.push_back(dtype);
      const bool is_known = with_element(
          of_size, [&](const MaskBits& bits, auto element) { f(dtype, bits, element); });
      STD_TORCH_CHECK(is_known, kWrongMasks);
    }
  }

  // The masks of one dtype.
  template <typename From, typename To>
  MasksOfSizes<From, To> as(ScalarType dtype, const MaskBits& bits) const {
    MasksOfSizes<From, To> a{};
    a.magnitude = static_cast<From>(bits.magnitude);
    for (size_t k = 0; k < masks.size(); ++k) {
      if (masks[k].numel() == 0 || masks[k].scalar_type() != dtype) continue;
      a.masks[a.sizes] = static_cast<const From*>(masks[k].const_data_ptr());
      a.out[a.sizes] = static_cast<To*>(out[k].mutable_data_ptr());
      a.height[a.sizes] = static_cast<int32_t>(masks[k].size(1));
      a.width[a.sizes] = static_cast<int32_t>(masks[k].size(2));
      a.end[a.sizes] = a.pixels() + masks[k].numel();
      ++a.sizes;
    }
    return a;
  }
};

std::vector<Tensor> edges_of(const std::vector<Tensor>& masks, bool with_coarse) {
  if (masks.empty()) return {};
  const Device device(masks[0]);
  const Given given(masks, std::nullopt);
  given.of_each_dtype([&](ScalarType dtype, const MaskBits& bits, auto element) {
    using From = decltype(element);
    edge_targets(device.stream, given.as<From, From>(dtype, bits), static_cast<From>(bits.one),
                 with_coarse);
  });
  return given.out;
}

std::vector<Tensor> blocks_of(const std::vector<Tensor>& masks, int64_t width) {
  STD_TORCH_CHECK(width >= 1 && width <= kMaxBlockWidth, "edge_targets: expected width in [1, 3]");
  if (masks.empty()) return {};
  const Device device(masks[0]);
  const Given given(masks, ScalarType::Byte);
  given.of_each_dtype([&](ScalarType dtype, const MaskBits& bits, auto element) {
    using From = decltype(element);
    block_targets(device.stream, given.as<From, uint8_t>(dtype, bits),
                  Blocks(static_cast<int>(width)));
  });
  return given.out;
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) {
  m.impl("edge_targets", TORCH_BOX(&edges_of));
  m.impl("edge_targets_blocks", TORCH_BOX(&blocks_of));
}

}  // namespace dynamask::cuda
