#include "cuda/mask_edge_loss.cuh"

#include "hostcuda/arrays.h"
#include "hostcuda/dtypes.h"

namespace {

using namespace dynamask::cuda;

// Reads logits [N, K, H, W] as they lie in memory, their strides, targets and labels; writes the
// losses, the errors, and the gradient of the logits for the given gradient of the losses.
template <typename S, typename T>
void run(hostcuda::Input& in, hostcuda::Output& out) {
  const bool bytes = in.number();
  const auto logits = in.array<S>();
  LogitPlanes<S> a{};
  a.logits = logits.data();
  a.shape.rois = in.number(), a.shape.classes = in.number();
  a.shape.height = in.number(), a.shape.width = in.number();
  a.stride_n = in.number(), a.stride_k = in.number();
  a.stride_y = in.number(), a.stride_x = in.number();
  const auto labels = in.array<int64_t>();
  a.labels = a.shape.classes > 1 ? labels.data() : nullptr;

  auto losses = hostcuda::garbage<T>(2 * a.shape.rois);  // those of the edges lie between
  auto errors = hostcuda::garbage<S>(a.shape.rois * a.pixels());
  if (bytes) {
    const auto targets = in.array<uint8_t>();
    mask_edge_loss(Stream{}, a, targets.data(), losses.data(), 2, errors.data());
  } else {
    const auto targets = in.array<T>();
    mask_edge_loss(Stream{}, a, targets.data(), losses.data(), 2, errors.data());
  }
  const auto grad = in.array<T>();
  auto gradient = hostcuda::garbage<S>(a.shape.rois * a.shape.classes * a.pixels());
  mask_edge_loss_backward(Stream{}, a, grad.data(), errors.data(), gradient.data());
  for (int64_t n = 0; n < a.shape.rois; ++n) losses[n] = losses[2 * n];
  losses.resize(a.shape.rois);
  out.array(losses);
  out.array(errors);
  out.array(gradient);
}

}  // namespace

int main(int, char** arguments) {
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  hostcuda::with_dtype(in.number(),
                       [&](auto s, auto t) { run<decltype(s), decltype(t)>(in, out); });
}
