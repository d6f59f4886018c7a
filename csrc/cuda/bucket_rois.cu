#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "cuda/bucket_rois.cuh"

namespace dynamask {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> bucket_rois(const Tensor& state_, int64_t num_states) {
  STD_TORCH_CHECK(num_states <= cuda::kMaxStates, "bucket_rois: expected at most ",
                  cuda::kMaxStates, " states, got ", num_states);
  const torch::stable::accelerator::DeviceGuard guard(state_.get_device());
  const auto state = torch::stable::contiguous(torch::stable::to(state_, ScalarType::Long));
  const int64_t n = state.numel();
  auto order = torch::stable::new_empty(state, {n});
  auto inverse = torch::stable::new_empty(state, {n});
  auto counts = torch::stable::new_empty(state, {num_states});
  auto offsets = torch::stable::new_empty(state, {num_states + 1});
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(state.get_device(), &stream));
  cuda::bucket_rois_kernel<<<1, cuda::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      state.const_data_ptr<int64_t>(), n, num_states, order.mutable_data_ptr<int64_t>(),
      inverse.mutable_data_ptr<int64_t>(), counts.mutable_data_ptr<int64_t>(),
      offsets.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {order, inverse, counts, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CUDA, m) { m.impl("bucket_rois", TORCH_BOX(&bucket_rois)); }

}  // namespace dynamask
