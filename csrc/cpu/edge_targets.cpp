#include "ops/edge_targets.h"

#include <algorithm>

#include "cpu/scratch.h"
#include "cpu/simd/edge_targets.h"
#include "cpu/tensor.h"

namespace dynamask {
namespace {

constexpr int64_t kElementsPerTask = 1 << 16;

EdgeTargetsShape shape_of(const Tensor& masks) {
  STD_TORCH_CHECK(masks.dim() == 3, "edge_targets: expected masks [N, S, S]");
  return {masks.size(0), masks.size(1), masks.size(2)};
}

// The same for every mask, so it is worked out once.
template <typename T>
class Places {
 public:
  Places(const EdgeTargetsShape& s, bool with_coarse)
      : size_(s.height * s.width + kRoom), tables_((with_coarse ? 4 : 1) * size_) {
    const int64_t area = s.height * s.width;
    tables_.fill_with_zeros();
    T* inside = tables_.data();
    for (int64_t y = 1; y < s.height - 1; ++y)
      for (int64_t x = 1; x < s.width - 1; ++x) inside[y * s.width + x] = T(~T(0));
    if (with_coarse) {
      T *left = inside + size_, *up = left + size_, *corner = up + size_;
      for (int64_t y = 0; y < s.height; ++y) {
        T* even = y % 2 ? up : nullptr;  // an even column of an even row is its own site
        T* odd = y % 2 ? corner : left;
        for (int64_t x = 0; even && x < s.width; x += 2) even[y * s.width + x] = T(~T(0));
        for (int64_t x = 1; x < s.width; x += 2) odd[y * s.width + x] = T(~T(0));
      }
    }
    for (int64_t start = 0; start < tables_.size(); start += size_)
      for (int64_t i = area; i < size_; ++i)
        tables_.data()[start + i] = tables_.data()[start + i - area];
  }

  simd::EdgePlaces<T> view() const {
    const T* t = tables_.data();
    return {t, t + size_, t + 2 * size_, t + 3 * size_};
  }

 private:
  static constexpr int64_t kRoom = 64;
  int64_t size_;
  Scratch<T> tables_;
};

Tensor edges_of(const Tensor& masks_, bool with_coarse) {
  const auto masks = contiguous(masks_);
  const auto s = shape_of(masks);
  auto out = empty(masks, {s.masks, s.height, s.width}, masks.scalar_type());
  const int64_t area = s.height * s.width;
  if (s.masks * area == 0) return out;
  const bool is_known = with_element(masks, [&](MaskBits bits, auto element) {
    using T = decltype(element);
    const auto& kernel = simd::edge_kernels().of(element);
    const Places<T> places(s, with_coarse);
    const auto* from = static_cast<const T*>(masks.const_data_ptr());
    auto* to = static_cast<T*>(out.mutable_data_ptr());
    const int64_t grain = std::max<int64_t>(1, kElementsPerTask / area);
    parallel_for(0, s.masks, grain, [&](int64_t begin, int64_t end) {
      const EdgeTargetsShape part{end - begin, s.height, s.width};
      kernel.edges(from + begin * area, to + begin * area, part, bits, places.view());
      if (with_coarse) kernel.add_coarse(to + begin * area, part, places.view());
    });
  });
  STD_TORCH_CHECK(is_known, kWrongMasks);
  return out;
}

Tensor blocks_of(const Tensor& masks_, int64_t width) {
  STD_TORCH_CHECK(width >= 1 && width <= kMaxBlockWidth, "edge_targets: expected width in [1, 3]");
  const auto masks = contiguous(masks_);
  const auto s = shape_of(masks);
  auto out = empty(masks, {s.masks, s.height, s.width}, ScalarType::Byte);
  const int64_t area = s.height * s.width;
  if (s.masks * area == 0) return out;
  const bool is_known = with_element(masks, [&](MaskBits bits, auto element) {
    using T = decltype(element);
    const auto& kernel = simd::edge_kernels().of(element);
    const auto* from = static_cast<const T*>(masks.const_data_ptr());
    auto* to = out.mutable_data_ptr<uint8_t>();
    const int64_t grain = std::max<int64_t>(1, kElementsPerTask / area);
    parallel_for(0, s.masks, grain, [&](int64_t begin, int64_t end) {
      Scratch<uint8_t> scratch(simd::edge_kernels().block_scratch(s.height, s.width));
      for (int64_t n = begin; n < end; ++n)
        kernel.blocks(from + n * area, to + n * area, s.height, s.width, bits,
                      Blocks(static_cast<int>(width)), scratch.data());
    });
  });
  STD_TORCH_CHECK(is_known, kWrongMasks);
  return out;
}

std::vector<Tensor> edge_targets(const std::vector<Tensor>& masks, bool with_coarse) {
  std::vector<Tensor> out;
  for (const Tensor& of_size : masks) out.push_back(edges_of(of_size, with_coarse));
  return out;
}

std::vector<Tensor> edge_targets_blocks(const std::vector<Tensor>& masks, int64_t width) {
  std::vector<Tensor> out;
  for (const Tensor& of_size : masks) out.push_back(blocks_of(of_size, width));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) {
  m.impl("edge_targets", TORCH_BOX(&edge_targets));
  m.impl("edge_targets_blocks", TORCH_BOX(&edge_targets_blocks));
}

}  // namespace dynamask
