#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "ops/bucket_rois.h"

namespace dynamask {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kThreads = 256;
constexpr int kMaxStates = 32;

// One block sorts all RoIs. A thread owns a contiguous run of them, so that places handed out in
// thread order are stable. Bound by latency: N is at most a few thousand.
__global__ void bucket_rois_kernel(const int64_t* state, int64_t n, int64_t num_states,
                                   int64_t* order, int64_t* inverse, int64_t* counts,
                                   int64_t* offsets) {
  __shared__ int first[kMaxStates + 1][kThreads];  // per bucket and thread: count, then first place
  __shared__ int64_t start[kMaxStates + 2];
  const int t = threadIdx.x;
  const int64_t run = (n + kThreads - 1) / kThreads;
  const int64_t begin = min(t * run, n), end = min(begin + run, n);
  for (int64_t b = 0; b <= num_states; ++b) first[b][t] = 0;
  for (int64_t i = begin; i < end; ++i) ++first[bucket_of_state(state[i], num_states)][t];
  __syncthreads();
  if (t <= num_states) {  // one thread per bucket turns counts into places within the bucket
    int sum = 0;
    for (int k = 0; k < kThreads; ++k) {
      const int c = first[t][k];
      first[t][k] = sum;
      sum += c;
    }
    start[t + 1] = sum;
    if (t < num_states) counts[num_states - 1 - t] = sum;
  }
  __syncthreads();
  if (t == 0) {
    start[0] = 0;
    for (int64_t b = 0; b <= num_states; ++b) start[b + 1] += start[b];
    for (int64_t b = 0; b <= num_states; ++b) offsets[b] = start[b];
  }
  __syncthreads();
  for (int64_t i = begin; i < end; ++i) {
    const int64_t b = bucket_of_state(state[i], num_states);
    const int64_t place = start[b] + first[b][t]++;
    order[place] = i;
    inverse[i] = place;
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> bucket_rois(const Tensor& state_, int64_t num_states) {
  STD_TORCH_CHECK(num_states <= kMaxStates, "bucket_rois: expected at most ", kMaxStates,
                  " states, got ", num_states);
  const torch::stable::accelerator::DeviceGuard guard(state_.get_device());
  const auto state = torch::stable::contiguous(torch::stable::to(state_, ScalarType::Long));
  const int64_t n = state.numel();
  auto order = torch::stable::new_empty(state, {n});
  auto inverse = torch::stable::new_empty(state, {n});
  auto counts = torch::stable::new_empty(state, {num_states});
  auto offsets = torch::stable::new_empty(state, {num_states + 1});
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(state.get_device(), &stream));
  bucket_rois_kernel<<<1, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      state.const_data_ptr<int64_t>(), n, num_states, order.mutable_data_ptr<int64_t>(),
      inverse.mutable_data_ptr<int64_t>(), counts.mutable_data_ptr<int64_t>(),
      offsets.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {order, inverse, counts, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CUDA, m) { m.impl("bucket_rois", TORCH_BOX(&bucket_rois)); }

}  // namespace dynamask
