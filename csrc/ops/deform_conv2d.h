// deform_conv2d: convolution whose taps are displaced by learned offsets (Dai et al. 2017), each
// weighed by a learned mask in version 2 (Zhu et al. 2019).
//
//   out[n, o, y, x] = bias[o] + sum over channels c of the weight group of o, taps k = (i, j):
//                     weight[o, c, i, j] * mask[n, g, k, y, x] * input[n, c](v, u)
//   v = y * stride - padding + i * dilation + offset[n, g, k, 0, y, x]
//   u = x * stride - padding + j * dilation + offset[n, g, k, 1, y, x]
//
// with g the offset group of channel c and input[n, c](v, u) bilinear between pixel centres, which
// lie at whole numbers. Outside of the image lie zeros: a position outside (-1, H) x (-1, W), or
// one that is no number, reads zero.
//
// Derivatives: a position on a pixel row takes the slope towards the row below, and one on the row
// above the image (v = -1) the slope into it, as torchvision does.

#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace dynamask {

struct DeformConv2dShape {
  int64_t batch, channels, height, width;
  int64_t out_channels, out_height, out_width;
  int64_t kernel_height, kernel_width;
  int64_t stride_height, stride_width, padding_height, padding_width;
  int64_t dilation_height, dilation_width;
  int64_t groups, offset_groups;

  DYNAMASK_HOST_DEVICE int64_t taps() const { return kernel_height * kernel_width; }
  DYNAMASK_HOST_DEVICE int64_t out_pixels() const { return out_height * out_width; }
  // channels read, and written, by one weight group
  DYNAMASK_HOST_DEVICE int64_t group_channels() const { return channels / groups; }
  DYNAMASK_HOST_DEVICE int64_t group_out_channels() const { return out_channels / groups; }
  DYNAMASK_HOST_DEVICE int64_t offset_group_channels() const { return channels / offset_groups; }
};

// Where one tap of one output pixel reads: between rows y and y + 1, columns x and x + 1; fy and fx
// in [0, 1) say how far below and right of (y, x). A coordinate outside, or one that is no number,
// is moved to the far edge (y = height, x = width), where all neighbours are zeros.
template <typename T>
struct DeformSample {
  int32_t y, x;  // in [-1, height], [-1, width]
  T fy, fx;

  DYNAMASK_HOST_DEVICE DeformSample(int32_t height, int32_t width, T v, T u) {
    v = (v >= T(-1)) & (v < T(height)) ? v : T(height);
    u = (u >= T(-1)) & (u < T(width)) ? u : T(width);
    y = static_cast<int32_t>(v);
    x = static_cast<int32_t>(u);
    y -= T(y) > v;  // towards minus infinity; std::floor is a call before SSE4.1
    x -= T(x) > u;
    fy = v - T(y);
    fx = u - T(x);
  }

  // The weights of (y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1).
  DYNAMASK_HOST_DEVICE T top_left() const { return (1 - fy) * (1 - fx); }
  DYNAMASK_HOST_DEVICE T top_right() const { return (1 - fy) * fx; }
  DYNAMASK_HOST_DEVICE T bottom_left() const { return fy * (1 - fx); }
  DYNAMASK_HOST_DEVICE T bottom_right() const { return fy * fx; }
};

// Gradients of one sample, from the products of the incoming gradient with its four neighbours
// (in the order above), summed over the channels of the offset group.
template <typename T>
struct DeformSampleGrad {
  T y, x, mask;

  DYNAMASK_HOST_DEVICE DeformSampleGrad(const DeformSample<T>& s, T mask_, T top_left, T top_right,
                                        T bottom_left, T bottom_right) {
    const T left = bottom_left - top_left, right = bottom_right - top_right;
    const T top = top_right - top_left, bottom = bottom_right - bottom_left;
    y = mask_ * (left + s.fx * (right - left));
    x = mask_ * (top + s.fy * (bottom - top));
    mask = s.top_left() * top_left + s.top_right() * top_right + s.bottom_left() * bottom_left +
           s.bottom_right() * bottom_right;
  }
};

}  // namespace dynamask
