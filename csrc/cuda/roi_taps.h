// The pixels that make up one bin of a box along one axis, made as they are needed.

#pragma once

#include "common/roi_samples.h"

namespace dynamask::cuda {

// Calls f(pixel, weight) for each of them. Samples of a bin come in order, so those that fall on
// the same two pixels are merged before any feature is read. Weights are not yet divided by the
// number of samples.
template <typename T, typename F>
DYNAMASK_HOST_DEVICE void for_each_tap(const RoiAxis<T>& axis, int64_t bin, F f) {
  int64_t pixel = -2;  // what is pending: weights of this pixel and of the next
  T near = 0, far = 0;
  const auto flush = [&] {
    if (near > 0) f(pixel, near);
    if (far > 0) f(pixel + 1, far);
    near = far = 0;
  };
  for (int64_t i = axis.first_inside(bin); i < axis.grid; ++i) {
    const T position = axis.position(bin, i);
    if (axis.bin_size >= 0 && position > T(axis.length)) break;
    const auto sample = roi_sample(position, axis.length);
    if (!sample.is_inside) continue;
    if (sample.low == pixel + 1) {
      if (near > 0) f(pixel, near);
      near = far, far = 0;
    } else if (sample.low != pixel) {
      flush();
    }
    pixel = sample.low;
    near += sample.weight_low;
    far += sample.weight_high;
  }
  flush();
}

}  // namespace dynamask::cuda
