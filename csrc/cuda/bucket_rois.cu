#include "cuda/bucket_rois.cuh"
#include "cuda/tensor.h"

namespace dynamask::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> bucket_rois(const Tensor& state_, int64_t num_states) {
  STD_TORCH_CHECK(num_states <= kMaxStates, "bucket_rois: expected at most ", kMaxStates,
                  " states, got ", num_states);
  const Device device(state_);
  const auto state = contiguous(to(state_, ScalarType::Long));
  const int64_t n = state.numel();
  auto order = empty(state, {n}, ScalarType::Long);
  auto inverse = empty(state, {n}, ScalarType::Long);
  auto counts = empty(state, {num_states}, ScalarType::Long);
  auto offsets = empty(state, {num_states + 1}, ScalarType::Long);
  launch(device.stream, 1, kThreads, bucket_rois_kernel, state.const_data_ptr<int64_t>(), n,
         num_states, order.mutable_data_ptr<int64_t>(), inverse.mutable_data_ptr<int64_t>(),
         counts.mutable_data_ptr<int64_t>(), offsets.mutable_data_ptr<int64_t>());
  return {order, inverse, counts, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CUDA, m) { m.impl("bucket_rois", TORCH_BOX(&bucket_rois)); }

}  // namespace dynamask::cuda
