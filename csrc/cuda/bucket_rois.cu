#include "cuda/bucket_rois.cuh"
#include "cuda/tensor.h"

namespace dynamask::cuda {
namespace {

using Buckets = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Buckets bucket_rois(const Tensor& state_, int64_t num_states, std::vector<int64_t> sizes) {
  STD_TORCH_CHECK(num_states <= kMaxStates, "bucket_rois: expected at most ", kMaxStates,
                  " states, got ", num_states);
  STD_TORCH_CHECK(sizes.empty() || static_cast<int64_t>(sizes.size()) == num_states,
                  "bucket_rois: expected ", num_states, " sizes, got ", sizes.size());
  const Device device(state_);
  const auto state = contiguous(to(state_, ScalarType::Long));
  const int64_t n = state.numel();
  auto order = empty(state, {n}, ScalarType::Long);
  auto inverse = empty(state, {n}, ScalarType::Long);
  auto counts = empty(state, {num_states}, ScalarType::Long);
  auto offsets = empty(state, {num_states + 1}, ScalarType::Long);
  auto mask_sizes = empty(state, {sizes.empty() ? 0 : n}, ScalarType::Long);
  auto mask_offsets = empty(state, {sizes.empty() ? 0 : n + 1}, ScalarType::Long);
  MaskPlaces masks{};
  for (size_t k = 0; k < sizes.size(); ++k) masks.side[k] = sizes[k];
  if (!sizes.empty()) {
    masks.sizes = mask_sizes.mutable_data_ptr<int64_t>();
    masks.offsets = mask_offsets.mutable_data_ptr<int64_t>();
  }
  launch(device.stream, 1, kThreads, bucket_rois_kernel, state.const_data_ptr<int64_t>(), n,
         num_states, order.mutable_data_ptr<int64_t>(), inverse.mutable_data_ptr<int64_t>(),
         counts.mutable_data_ptr<int64_t>(), offsets.mutable_data_ptr<int64_t>(), masks);
  return {order, inverse, counts, offsets, mask_sizes, mask_offsets};
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) { m.impl("bucket_rois", TORCH_BOX(&bucket_rois)); }

}  // namespace dynamask::cuda
