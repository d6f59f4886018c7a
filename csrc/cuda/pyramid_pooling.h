// What roi_align and multiscale_roi_align have in common: pool boxes from one map or several.

#pragma once

#include <cmath>
#include <vector>

#include "cuda/feature_tensors.h"
#include "cuda/roi_align.cuh"

namespace dynamask::cuda {

struct PyramidPooling {
  std::vector<double> scales;  // of each map: its pixels per pixel of the image
  int64_t sampling_ratio;
  bool aligned;
  LevelRule rule;

  // features: [N, C, H, W] of each level, boxes [R, 5], the height and width of each output ->
  // [R, C, height, width] of each, in one launch; channels_last if the first map is.
  std::vector<Tensor> forward(const std::vector<Tensor>& features, const Tensor& boxes,
                              const std::vector<int64_t>& output_sizes) const;

  // grad [R, C, height, width], sizes (H, W) of each level -> [N, C, H, W] of each level, the same
  // bits every time if `deterministic`.
  std::vector<Tensor> backward(const Tensor& grad, const Tensor& boxes, int64_t batch,
                               const std::vector<int64_t>& sizes, bool channels_last,
                               bool deterministic) const;
};

}  // namespace dynamask::cuda
