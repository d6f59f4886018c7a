// The arguments that paste_masks and encode_masks share.

#pragma once

#include <numeric>

#include "cuda/pasted_mask.h"
#include "hostcuda/arrays.h"

namespace hostcuda {

template <typename T>
std::vector<T> running_sum(const std::vector<T>& values) {
  std::vector<T> sums(values.size());
  std::partial_sum(values.begin(), values.end(), sums.begin());
  return sums;
}

struct PasteArguments {
  std::vector<float> values, boxes;
  std::vector<int64_t> sizes, ends;
  dynamask::cuda::PasteMasks masks;

  explicit PasteArguments(Input& in)
      : values(in.array<float>()), boxes(in.array<float>()), sizes(in.array<int64_t>()) {
    const auto count = static_cast<int64_t>(sizes.size());
    for (const int64_t size : sizes) ends.push_back(size * size);
    ends = running_sum(ends);
    const auto height = static_cast<int32_t>(in.number()),
               width = static_cast<int32_t>(in.number());
    const auto mode =
        in.number() ? dynamask::PasteMode::torchvision : dynamask::PasteMode::detectron2;
    masks = {
        values.data(), sizes.data(), ends.data(), boxes.data(), static_cast<int64_t>(values.size()),
        count,         height,       width,       0.5f,         mode};
  }
};

}  // namespace hostcuda
