// The kernel alone, without torch: csrc/hostcuda runs it on the CPU.

#pragma once

#include "cuda/launch.h"
#include "ops/bucket_rois.h"

namespace dynamask::cuda {

constexpr int kThreads = 256;
constexpr int kMaxStates = 32;

// Where masks lie one after the other, if that is asked: else both arrays are null.
struct MaskPlaces {
  int64_t side[kMaxStates];  // of the masks of each state
  int64_t* sizes;            // [N]
  int64_t* offsets;          // [N + 1]
};

// One block sorts all RoIs. A thread owns a contiguous run of them, so that places handed out in
// thread order are stable. Bound by latency: N is at most a few thousand.
__global__ void bucket_rois_kernel(const int64_t* state, int64_t n, int64_t num_states,
                                   int64_t* order, int64_t* inverse, int64_t* counts,
                                   int64_t* offsets, const __grid_constant__ MaskPlaces masks) {
  __shared__ int first[kMaxStates + 1][kThreads];  // per bucket and thread: count, then first place
  __shared__ int64_t start[kMaxStates + 2];
  const int t = threadIdx.x;
  const int64_t run = (n + kThreads - 1) / kThreads;
  const int64_t begin = min(t * run, n), end = min(begin + run, n);
  for (int64_t b = 0; b <= num_states; ++b) first[b][t] = 0;
  for (int64_t i = begin; i < end; ++i) ++first[bucket_of_state(state[i], num_states)][t];
  __syncthreads();
  const int lane = t % 32;
  for (int b = t / 32; b <= num_states; b += kThreads / 32) {  // a warp per bucket
    int before = 0;
    for (int k = lane; k < kThreads; k += 32) {  // turns counts into places within the bucket
      const int own = first[b][k];
      int sum = own;
      for (int by = 1; by < 32; by *= 2) {
        const int other = __shfl_up_sync(~0u, sum, by);
        if (lane >= by) sum += other;
      }
      first[b][k] = before + sum - own;
      before += __shfl_sync(~0u, sum, 31);
    }
    if (lane == 0) start[b + 1] = before;
    if (lane == 0 && b < num_states) counts[num_states - 1 - b] = before;
  }
  __syncthreads();
  if (t == 0) {
    start[0] = 0;
    for (int64_t b = 0; b <= num_states; ++b) start[b + 1] += start[b];
    for (int64_t b = 0; b <= num_states; ++b) offsets[b] = start[b];
  }
  __syncthreads();
  const auto side = [&](int64_t b) { return b < num_states ? masks.side[num_states - 1 - b] : 0; };
  int64_t mask_start = 0;  // after the masks of all threads before
  for (int64_t b = 0; b < num_states; ++b) mask_start += first[b][t] * side(b) * side(b);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t b = bucket_of_state(state[i], num_states);
    const int64_t place = start[b] + first[b][t]++;
    order[place] = i;
    inverse[i] = place;
    if (masks.offsets) {
      masks.sizes[i] = side(b);
      masks.offsets[i] = mask_start;
      mask_start += side(b) * side(b);
    }
  }
  // threads without a RoI, and the last one with some, are past all masks
  if (t == kThreads - 1 && masks.offsets) masks.offsets[n] = mask_start;
}

}  // namespace dynamask::cuda
