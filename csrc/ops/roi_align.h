// roi_align: cut boxes out of feature maps at a fixed size (Mask R-CNN), as torchvision does it.
//
//   b, x1, y1, x2, y2 = boxes[r];  o = 1/2 if aligned else 0
//   w = (x2 - x1) * scale, at least 1 unless aligned;  bw = w / W';  gw = sampling_ratio or
//   ceil(bw) x(q, i) = x1 * scale - o + q * bw + (i + 1/2) * bw / gw          and y(p, j) alike
//   out[r, c, p, q] = sum_ij bilinear(input[b, c], y(p, j), x(q, i)) / (gh * gw)
//
// bilinear() is a product of one weight per axis, so the sum over samples is
//
//   out[r, c] = A_y input[b, c] A_x^T      with A_y [H', H] and A_x [W', W] of few taps per row
//
// and its gradient is the same product with both matrices transposed. The taps of a bin that fall
// on one pixel are merged before any feature is read.
//
// A box with a coordinate that is not finite, or on an image that does not exist, gives zeros.

#pragma once

#include "common/roi_samples.h"

namespace dynamask {

struct RoiAlignShape {
  int64_t rois, channels, height, width;  // of the output
  int64_t sampling_ratio;                 // samples per bin and axis; as many as pixels if <= 0
  bool aligned;
};

}  // namespace dynamask
