// mask_edge_loss: the binary cross entropy of each RoI's mask, and of its edge if there is one, in
// each of M mask sizes.
//
// With x the logits of RoI n and of its own class, t its targets and P = H W pixels:
//
//   loss[n]        = 1 / P  sum_p (1 - t) x - log s(x)      log s(x) = min(x, 0) - log(1 + e^-|x|)
//   error[n, p]    = s(x) - t                               s(x) = 1 / (1 + e^-x)
//   grad_x[n, p]   = grad_loss[n] / P * error[n, p]         0 for the logits of other classes
//
// The forward pass leaves the error behind where a gradient is wanted. A label outside [0, K) gives
// loss and gradient zero, on every device; the Python face refuses it on the CPU.

#pragma once

#include <cstdint>

namespace dynamask {

struct MaskEdgeLossShape {
  int64_t rois, classes, height, width;
};

}  // namespace dynamask
