#include "ops/edge_targets.h"

#include <algorithm>

#include "cpu/simd/edge_targets.h"
#include "cpu/tensor.h"

namespace dynamask {
namespace {

constexpr int64_t kElementsPerTask = 1 << 16;

struct Element {
  MaskBits bits;
  int64_t bytes;
  simd::EdgeKernels::Kernel kernel;
};

Element element_of(ScalarType dtype) {
  const auto& kernels = simd::edge_kernels();
  switch (dtype) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      return {{0xff, 1}, 1, kernels.of_1};
    case ScalarType::Half:
      return {{0x7fff, 0x3c00}, 2, kernels.of_2};
    case ScalarType::BFloat16:
      return {{0x7fff, 0x3f80}, 2, kernels.of_2};
    case ScalarType::Float:
      return {{0x7fffffff, 0x3f800000}, 4, kernels.of_4};
    case ScalarType::Double:
      return {{0x7fffffffffffffff, 0x3ff0000000000000}, 8, kernels.of_8};
    default:
      STD_TORCH_CHECK(false, "edge_targets: expected masks of uint8, bool or a floating dtype");
  }
}

Tensor edge_targets(const Tensor& masks_, bool with_coarse) {
  const auto masks = contiguous(masks_);
  const EdgeTargetsShape s{masks.size(0), masks.size(1), masks.size(2)};
  auto out = empty(masks, {s.masks, s.height, s.width}, masks.scalar_type());
  const auto element = element_of(masks.scalar_type());
  const int64_t area = s.height * s.width, bytes = area * element.bytes;
  if (s.masks * area == 0) return out;
  const auto* from = static_cast<const char*>(masks.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  const int64_t scratch_bytes = simd::edge_kernels().scratch_bytes(s.height, s.width);
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / area);
  parallel_for(0, s.masks, grain, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch((scratch_bytes + 7) / 8);
    for (int64_t n = begin; n < end; ++n)
      element.kernel(from + n * bytes, to + n * bytes, s.height, s.width, element.bits, with_coarse,
                     reinterpret_cast<uint8_t*>(scratch.data()));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) { m.impl("edge_targets", TORCH_BOX(&edge_targets)); }

}  // namespace dynamask
