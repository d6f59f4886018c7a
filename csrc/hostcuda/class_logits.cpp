#include "cuda/class_logits.cuh"

#include "hostcuda/arrays.h"
#include "hostcuda/dtypes.h"

namespace {

using namespace dynamask::cuda;

// Reads features as they lie in memory, weight rows, maybe a bias, and labels; writes the logits.
template <typename S, typename T>
void run(hostcuda::Input& in, hostcuda::Output& out) {
  const bool rows = in.number();
  const auto features = in.array<S>();
  const auto weight = in.array<T>();
  const auto bias = in.array<T>();
  const auto labels = in.array<int64_t>();
  ClassLogits<S, T> a{};
  a.shape.rois = in.number(), a.shape.channels = in.number();
  a.shape.height = in.number(), a.shape.width = in.number(), a.shape.classes = in.number();
  auto logits = hostcuda::garbage<S>(a.shape.rois * a.pixels());
  a.features = features.data(), a.weight = weight.data(), a.labels = labels.data();
  a.bias = bias.empty() ? nullptr : bias.data(), a.out = logits.data();
  class_logits(Stream{}, a, rows);
  out.array(logits);
}

}  // namespace

int main(int, char** arguments) {
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  hostcuda::with_dtype(in.number(),
                       [&](auto s, auto t) { run<decltype(s), decltype(t)>(in, out); });
}
