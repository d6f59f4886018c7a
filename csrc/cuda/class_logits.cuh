// The kernels of class_logits, without torch.

#pragma once

#include "cuda/launch.h"
#include "cuda/storage.h"
#include "ops/class_logits.h"

namespace dynamask::cuda {

constexpr int kLogitWarps = 4;    // of a block
constexpr int kLogitPixels = 32;  // of a block whose warps own pixels

// Features [N, H, W, C] or [N, C, H, W], and the weight rows [K, C] of all classes.
template <typename S, typename T>
struct ClassLogits {
  const S* features;
  const T* weight;
  const T* bias;  // [K], or nullptr
  const int64_t* labels;
  S* out;
  ClassLogitsShape shape;

  DYNAMASK_HOST_DEVICE int64_t pixels() const { return shape.height * shape.width; }
  DYNAMASK_HOST_DEVICE bool has(int64_t k) const { return k >= 0 && k < shape.classes; }
  DYNAMASK_HOST_DEVICE const T* row(int64_t k) const {
    return weight + (has(k) ? k : 0) * shape.channels;
  }
  DYNAMASK_HOST_DEVICE S logit(int64_t k, T sum) const {
    return narrow<S>(!has(k) ? T(0) : bias ? sum + bias[k] : sum);
  }
};

// With the channels innermost: a warp owns a pixel, a lane kCount neighbouring channels and every
// 32nd such group after them. Bound by memory: features are read once, 16 bytes at a time.
template <typename S, typename T, int kCount>
__global__ void class_logits_of_rows(ClassLogits<S, T> a) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t n = blockIdx.x, channels = a.shape.channels, pixels = a.pixels();
  const int64_t k = a.labels[n];
  const T* weight = a.row(k);
  const int64_t step = static_cast<int64_t>(gridDim.y) * kLogitWarps;
  for (int64_t p = blockIdx.y * kLogitWarps + warp; p < pixels; p += step) {
    const S* pixel = a.features + (n * pixels + p) * channels;
    T sum = 0;
    if (a.has(k))
      for (int64_t c = lane * kCount; c < channels; c += 32 * kCount) {
        const auto x = *reinterpret_cast<const Pack<S, kCount>*>(pixel + c);
        const auto w = *reinterpret_cast<const Pack<T, kCount>*>(weight + c);
        for (int i = 0; i < kCount; ++i) sum = fma(wide(x.value[i]), w.value[i], sum);
      }
    for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(~0u, sum, by);
    if (lane == 0) a.out[n * pixels + p] = a.logit(k, sum);
  }
}

// With the pixels innermost: a thread owns a pixel. Bound by memory: neighbours read neighbours.
template <typename S, typename T>
__global__ void class_logits_of_planes(ClassLogits<S, T> a) {
  const int64_t n = blockIdx.x, channels = a.shape.channels, pixels = a.pixels();
  const int64_t k = a.labels[n];
  const T* weight = a.row(k);
  const S* features = a.features + n * channels * pixels;
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.x;
  for (int64_t p = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels;
       p += step) {
    T sum = 0;
    if (a.has(k))
      for (int64_t c = 0; c < channels; ++c)
        sum = fma(wide(features[c * pixels + p]), weight[c], sum);
    a.out[n * pixels + p] = a.logit(k, sum);
  }
}

template <typename S, typename T>
void class_logits(Stream stream, const ClassLogits<S, T>& a, bool rows) {
  constexpr int64_t kMostBlocks = 65535;  // of a column of the grid
  constexpr int kThreads = 32 * kLogitWarps, kCount = 16 / sizeof(S);
  if (a.shape.rois == 0 || a.pixels() == 0) return;
  const auto blocks = ceil_divide(a.pixels(), rows ? kLogitPixels : kThreads);
  const dim3 grid(a.shape.rois, blocks < kMostBlocks ? blocks : kMostBlocks);
  const bool wide_loads = a.shape.channels % kCount == 0 &&
                          reinterpret_cast<uintptr_t>(a.features) % 16 == 0 &&
                          reinterpret_cast<uintptr_t>(a.weight) % sizeof(Pack<T, kCount>) == 0;
  launch(stream, grid, kThreads,
         !rows        ? class_logits_of_planes<S, T>
         : wide_loads ? class_logits_of_rows<S, T, kCount>
                      : class_logits_of_rows<S, T, 1>,
         a);
}

}  // namespace dynamask::cuda
