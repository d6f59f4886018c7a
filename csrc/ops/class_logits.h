// class_logits: the 1x1 convolution of the labelled class only.
//
//   out[n, y, x] = bias[k] + sum_c weight[k, c] * features[n, c, y, x]   with k = labels[n]
//
// A label outside [0, K) gives zeros, on every device; the Python face refuses it on the CPU.

#pragma once

#include <cstdint>

namespace dynamask {

struct ClassLogitsShape {
  int64_t rois, channels, height, width, classes;
};

}  // namespace dynamask
