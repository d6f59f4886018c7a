#include "ops/bucket_rois.h"

#include "cpu/tensor.h"

namespace dynamask {
namespace {

using Buckets = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Buckets bucket_rois(const Tensor& state_, int64_t num_states, std::vector<int64_t> sizes) {
  const auto state = contiguous(to(state_, ScalarType::Long));
  const int64_t n = state.numel();
  auto order = empty(state, {n}, ScalarType::Long), inverse = empty(state, {n}, ScalarType::Long);
  auto counts = empty(state, {num_states}, ScalarType::Long);
  auto offsets = empty(state, {num_states + 1}, ScalarType::Long);
  auto mask_sizes = empty(state, {sizes.empty() ? 0 : n}, ScalarType::Long);
  auto mask_offsets = empty(state, {sizes.empty() ? 0 : n + 1}, ScalarType::Long);
  const auto* s = state.const_data_ptr<int64_t>();
  auto* o = order.mutable_data_ptr<int64_t>();
  auto* inv = inverse.mutable_data_ptr<int64_t>();
  auto* off = offsets.mutable_data_ptr<int64_t>();

  std::vector<int64_t> next(num_states + 1, 0);  // sizes of the buckets, then where each goes on
  for (int64_t i = 0; i < n; ++i) ++next[bucket_of_state(s[i], num_states)];
  STD_TORCH_CHECK(next[num_states] == 0, "bucket_rois: expected states in [0, ", num_states,
                  "), got ", next[num_states], " outside");
  for (int64_t b = 0; b < num_states; ++b)
    counts.mutable_data_ptr<int64_t>()[num_states - 1 - b] = next[b];
  off[0] = 0;
  for (int64_t b = 0; b < num_states; ++b) {
    off[b + 1] = off[b] + next[b];
    next[b] = off[b];
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t place = next[bucket_of_state(s[i], num_states)]++;
    o[place] = i;
    inv[i] = place;
  }
  if (!sizes.empty()) {
    STD_TORCH_CHECK(static_cast<int64_t>(sizes.size()) == num_states, "bucket_rois: expected ",
                    num_states, " sizes, got ", sizes.size());
    auto* side = mask_sizes.mutable_data_ptr<int64_t>();
    auto* start = mask_offsets.mutable_data_ptr<int64_t>();
    start[0] = 0;
    for (int64_t i = 0; i < n; ++i) {
      side[i] = sizes[s[i]];
      start[i + 1] = start[i] + side[i] * side[i];
    }
  }
  return {order, inverse, counts, offsets, mask_sizes, mask_offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) { m.impl("bucket_rois", TORCH_BOX(&bucket_rois)); }

}  // namespace dynamask
