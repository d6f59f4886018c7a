#pragma once

#include "cpu/simd/deform_conv2d.h"
#include "cpu/simd/vec.h"

namespace dynamask::simd::DYNAMASK_VARIANT {

// The four neighbours of a pixel's tap, by the address of their first channel.
template <typename T>
struct DeformCorners {
  T *top_left, *top_right, *bottom_left, *bottom_right;
};

template <typename T>
DYNAMASK_INLINE DeformCorners<T> corners_at(DeformImage<T> image, int32_t pixel) {
  T* top = image.data + pixel * image.channels;
  T* bottom = top + image.row;
  return {top, top + image.channels, bottom, bottom + image.channels};
}

}  // namespace dynamask::simd::DYNAMASK_VARIANT
