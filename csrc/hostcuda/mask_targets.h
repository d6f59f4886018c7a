// The arguments that the kernels of mask_targets share.

#pragma once

#include "cuda/target_boxes.h"
#include "hostcuda/arrays.h"

namespace hostcuda {

template <typename T>
struct TargetArguments {
  std::vector<T> boxes;
  std::vector<int64_t> index, sizes;
  std::vector<std::vector<uint8_t>> out;
  dynamask::cuda::TargetBoxes<T> given{};

  explicit TargetArguments(Input& in)
      : boxes(in.array<T>()), index(in.array<int64_t>()), sizes(in.array<int64_t>()) {
    given.boxes = boxes.data(), given.index = index.data();
    given.rois = index.size(), given.instances = in.number(), given.sizes = sizes.size();
    for (const int64_t size : sizes) out.push_back(garbage<uint8_t>(index.size() * size * size));
    for (size_t k = 0; k < sizes.size(); ++k)
      given.size[k] = static_cast<int32_t>(sizes[k]), given.out[k] = out[k].data();
  }
};

}  // namespace hostcuda
