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
#include <optional>
#include <vector>

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

  // pixels are counted in 32 bits, and rows in floats
  bool is_countable() const {
    return (height + 3) * (width + 2) <= INT32_MAX && height < (1 << 24) && width < (1 << 24);
  }
};

// The shape of a call, or nothing if the tensors do not fit together: the Python face says in words
// what does not.
template <typename Tensor>
std::optional<DeformConv2dShape> deform_conv2d_shape(const Tensor& input, const Tensor& offset,
                                                     const Tensor& weight,
                                                     const std::optional<Tensor>& mask,
                                                     const std::vector<int64_t>& stride,
                                                     const std::vector<int64_t>& padding,
                                                     const std::vector<int64_t>& dilation) {
  if (input.dim() != 4 || offset.dim() != 4 || weight.dim() != 4) return {};
  if (stride.size() != 2 || padding.size() != 2 || dilation.size() != 2) return {};
  for (int i = 0; i < 2; ++i)
    if (stride[i] <= 0 || dilation[i] <= 0 || padding[i] < 0) return {};
  DeformConv2dShape s{};
  s.batch = input.size(0), s.channels = input.size(1);
  s.height = input.size(2), s.width = input.size(3);
  s.out_channels = weight.size(0);
  s.kernel_height = weight.size(2), s.kernel_width = weight.size(3);
  if (s.taps() <= 0) return {};
  s.stride_height = stride[0], s.stride_width = stride[1];
  s.padding_height = padding[0], s.padding_width = padding[1];
  s.dilation_height = dilation[0], s.dilation_width = dilation[1];
  const auto out_size = [](int64_t size, int64_t pad, int64_t dilate, int64_t kernel,
                           int64_t step) {
    return (size + 2 * pad - dilate * (kernel - 1) - 1) / step + 1;
  };
  s.out_height = out_size(s.height, padding[0], dilation[0], s.kernel_height, stride[0]);
  s.out_width = out_size(s.width, padding[1], dilation[1], s.kernel_width, stride[1]);
  s.groups = weight.size(1) > 0 ? s.channels / weight.size(1) : 1;
  s.offset_groups = offset.size(1) / (2 * s.taps());
  if (s.groups <= 0 || s.offset_groups <= 0 || s.groups * weight.size(1) != s.channels) return {};
  if (s.out_channels % s.groups != 0 || s.channels % s.offset_groups != 0) return {};
  const auto has_plane_per = [&](const Tensor& t, int64_t planes) {
    return t.dim() == 4 && t.size(0) == s.batch &&
           t.size(1) == planes * s.offset_groups * s.taps() && t.size(2) == s.out_height &&
           t.size(3) == s.out_width;
  };
  if (s.out_height <= 0 || s.out_width <= 0 || !has_plane_per(offset, 2)) return {};
  if (mask && !has_plane_per(*mask, 1)) return {};
  return s;
}

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
