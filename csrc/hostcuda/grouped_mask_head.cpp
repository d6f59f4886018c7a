#include "cuda/grouped_mask_head.cuh"

#include "hostcuda/arrays.h"

namespace {

using namespace dynamask::cuda;

template <typename S, typename W, typename T>
void run(hostcuda::Input& in, hostcuda::Output& out) {
  const bool rows = in.number();
  const auto labels = in.array<int64_t>();
  const auto state = in.array<int64_t>();
  const auto order = in.array<int64_t>();
  const auto mask_offsets = in.array<int64_t>();
  const auto shapes = in.array<int64_t>();  // channels, pixels and classes of each exit
  MaskExits<S, W> a{};
  a.plan.rois = labels.size(), a.plan.exits = shapes.size() / 3;
  a.plan.labels = labels.data(), a.plan.state = state.data(), a.plan.order = order.data();
  a.plan.mask_offsets = mask_offsets.data();
  std::vector<std::vector<S>> features;
  std::vector<std::vector<W>> weights;
  for (int64_t k = 0; k < a.plan.exits; ++k) {
    features.push_back(in.array<S>());
    weights.push_back(in.array<W>());
    weights.push_back(in.array<W>());
    a.shape[k] = {shapes[3 * k], shapes[3 * k + 1], shapes[3 * k + 2]};
    a.plan.numel = a.plan.rois * a.shape[k].pixels;
  }
  for (int64_t k = 0; k < a.plan.exits; ++k) {
    a.features[k] = features[k].data();
    a.weight[k] = weights[2 * k].data(), a.bias[k] = weights[2 * k + 1].data();
  }
  auto values = hostcuda::garbage<S>(a.plan.numel);
  launch_grouped_mask_head<T>(Stream{}, a, values.data(), rows);
  out.array(values);
}

}  // namespace

int main(int, char** arguments) {
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  switch (in.number()) {
    case 0:
      run<float, float, float>(in, out);
      break;
    case 1:
      run<double, double, double>(in, out);
      break;
    case 2:
      run<Float16, Float16, float>(in, out);
      break;
    case 3:
      run<BFloat16, BFloat16, float>(in, out);
      break;
    default:
      run<BFloat16, float, float>(in, out);
  }
}
