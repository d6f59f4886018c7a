// The kernels of mask_edge_loss, without torch.

#pragma once

#include "cuda/launch.h"
#include "cuda/storage.h"
#include "ops/mask_edge_loss.h"

namespace dynamask::cuda {

constexpr int kLossThreads = 512;  // so that a hundred RoIs fill a GPU

// The logits of masks or of edges, where they lie, and the labels that choose one plane per RoI.
template <typename S>
struct LogitPlanes {
  const S* logits;
  const int64_t* labels;  // [N], or nullptr where there is one class
  MaskEdgeLossShape shape;
  int64_t stride_n, stride_k, stride_y, stride_x;

  DYNAMASK_HOST_DEVICE int64_t pixels() const { return shape.height * shape.width; }
  DYNAMASK_HOST_DEVICE int64_t class_of(int64_t n) const { return labels ? labels[n] : 0; }
  DYNAMASK_HOST_DEVICE bool has(int64_t k) const { return k >= 0 && k < shape.classes; }
  DYNAMASK_HOST_DEVICE S at(int64_t n, int64_t k, int64_t p) const {
    const auto width = static_cast<uint32_t>(shape.width), pixel = static_cast<uint32_t>(p);
    return logits[n * stride_n + k * stride_k + pixel / width * stride_y +
                  pixel % width * stride_x];
  }
};

// The sum over all threads of a block, by a tree that depends on nothing but their number. The
// first thread has it.
__device__ inline double sum_of_block(double value, double* of_warps) {
  for (int by = 16; by > 0; by /= 2) value += __shfl_down_sync(~0u, value, by);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) value += of_warps[warp];
  return value;
}

// A block owns the plane of one RoI, a thread every 512th pixel of it. T is the type of the sums, U
// that of the targets [N, H, W]; losses are `stride` apart; `errors` is null where none are wanted.
// Bound by memory: logits and targets are read once, neighbours by neighbours.
template <typename S, typename T, typename U>
__global__ void mask_edge_loss_kernel(LogitPlanes<S> a, const U* targets, T* losses, int64_t stride,
                                      S* errors) {
  __shared__ double of_warps[kLossThreads / 32];
  const int64_t n = blockIdx.x, pixels = a.pixels(), k = a.class_of(n);
  const bool exists = a.has(k);
  T sum = 0;
  for (int64_t p = threadIdx.x; p < pixels; p += blockDim.x) {
    T error = 0;
    if (exists) {
      const T x = wide(a.at(n, k, p)), target = static_cast<T>(targets[n * pixels + p]);
      const T e = exp(-fabs(x));
      sum += (1 - target) * x - ((x < 0 ? x : T(0)) - log1p(e));
      error = (x >= 0 ? T(1) : e) / (1 + e) - target;
    }
    if (errors) errors[n * pixels + p] = narrow<S>(error);
  }
  const double total = sum_of_block(sum, of_warps);
  if (threadIdx.x == 0) losses[n * stride] = exists ? static_cast<T>(total / pixels) : T(0);
}

// Blocks of a row of the grid own the gradient [K, H, W] of one RoI, a thread every number a whole
// row further. It is zero but in the plane of the RoI's class. Bound by memory: it is written once.
template <typename S, typename T>
__global__ void mask_edge_loss_backward_kernel(LogitPlanes<S> a, const T* grad, const S* errors,
                                               S* out) {
  const int64_t n = blockIdx.x, pixels = a.pixels(), size = a.shape.classes * pixels;
  const int64_t k = a.class_of(n), first = a.has(k) ? k * pixels : size;
  const T scale = grad[n] / static_cast<T>(pixels);
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; i < size;
       i += step) {
    const int64_t p = i - first;
    const bool is_ours = p >= 0 && p < pixels;
    out[n * size + i] = narrow<S>(is_ours ? wide(errors[n * pixels + p]) * scale : T(0));
  }
}

template <typename S, typename T, typename U>
void mask_edge_loss(Stream stream, const LogitPlanes<S>& a, const U* targets, T* losses,
                    int64_t stride, S* errors) {
  if (a.shape.rois > 0)
    launch(stream, a.shape.rois, kLossThreads, mask_edge_loss_kernel<S, T, U>, a, targets, losses,
           stride, errors);
}

template <typename S, typename T>
void mask_edge_loss_backward(Stream stream, const LogitPlanes<S>& a, const T* grad, const S* errors,
                             S* out) {
  constexpr int64_t kMostBlocks = 65535;  // of a column of the grid
  const int64_t size = a.shape.classes * a.pixels();
  if (a.shape.rois == 0 || size == 0) return;
  const int64_t blocks = ceil_divide(size, 4 * kLossThreads);
  const dim3 grid(a.shape.rois, blocks < kMostBlocks ? blocks : kMostBlocks);
  launch(stream, grid, kLossThreads, mask_edge_loss_backward_kernel<S, T>, a, grad, errors, out);
}

}  // namespace dynamask::cuda
