#include "ops/bucket_rois.h"

#include "cpu/tensor.h"

namespace dynamask {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> bucket_rois(const Tensor& state_, int64_t num_states) {
  const auto state = contiguous(to(state_, ScalarType::Long));
  const int64_t n = state.numel();
  auto order = empty(state, {n}, ScalarType::Long), inverse = empty(state, {n}, ScalarType::Long);
  auto counts = empty(state, {num_states}, ScalarType::Long);
  auto offsets = empty(state, {num_states + 1}, ScalarType::Long);
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
  return {order, inverse, counts, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) { m.impl("bucket_rois", TORCH_BOX(&bucket_rois)); }

}  // namespace dynamask
