#include "cuda/roi_align.cuh"

#include "hostcuda/arrays.h"
#include "hostcuda/dtypes.h"

namespace {

using namespace dynamask::cuda;

// Reads a pyramid and boxes, writes the pooled features of every size, or with `deterministic` 0 or
// 1 the gradients of the maps from those of the output.
template <typename S, typename T>
void run(hostcuda::Input& in, hostcuda::Output& out) {
  const bool rows = in.number();
  const int64_t backward = in.number(), deterministic = in.number();
  const auto boxes = in.array<T>();
  const auto scales = in.array<T>();
  const auto sizes = in.array<int64_t>();  // H, W of each level
  RoiPooling<T> a{};
  a.boxes = boxes.data(), a.rois = boxes.size() / 5;
  a.batch = in.number(), a.channels = in.number();
  const auto output_sizes = in.array<int64_t>();  // bins along y and x of each
  const Bins bins{output_sizes[0], output_sizes[1]};
  a.sampling_ratio = in.number(), a.aligned = in.number();
  const bool is_detectron2 = in.number();
  const int64_t levels = scales.size();
  a.rule = {is_detectron2, 224, 4, 2, levels};
  for (int64_t l = 0; l < levels; ++l)
    a.heights[l] = sizes[2 * l], a.widths[l] = sizes[2 * l + 1], a.scales[l] = scales[l];
  const auto numel = [&](int64_t l) { return a.batch * a.channels * a.heights[l] * a.widths[l]; };

  if (!backward) {
    std::vector<std::vector<S>> features;
    Maps<const S> maps{};
    for (int64_t l = 0; l < levels; ++l) features.push_back(in.array<S>());
    for (int64_t l = 0; l < levels; ++l) maps.level[l] = features[l].data();
    std::vector<std::vector<S>> pooled;
    PooledOutputs<S> to{};
    for (size_t k = 0; k < output_sizes.size(); k += 2)
      pooled.push_back(
          hostcuda::garbage<S>(a.rois * a.channels * output_sizes[k] * output_sizes[k + 1]));
    for (size_t k = 0; k < pooled.size(); ++k)
      to.add({output_sizes[2 * k], output_sizes[2 * k + 1]}, pooled[k].data());
    launch_roi_align(Stream{}, a, maps, to, rows);
    for (const auto& of_size : pooled) out.array(of_size);
    return;
  }
  const auto grad = in.array<S>();
  std::vector<std::vector<T>> sums;
  Maps<T> maps{};
  for (int64_t l = 0; l < levels; ++l)
    sums.push_back(deterministic ? hostcuda::garbage<T>(numel(l)) : std::vector<T>(numel(l)));
  for (int64_t l = 0; l < levels; ++l) maps.level[l] = sums[l].data();
  if (deterministic)
    launch_roi_align_gather(Stream{}, a, bins, grad.data(), maps, rows);
  else
    launch_roi_align_scatter(Stream{}, a, bins, grad.data(), maps, rows);
  for (const auto& map : sums) out.array(map);
}

}  // namespace

int main(int, char** arguments) {
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  hostcuda::with_dtype(in.number(),
                       [&](auto s, auto t) { run<decltype(s), decltype(t)>(in, out); });
}
