// [N, C, H, W] tensors as kernels walk through them, and copies of images in a ring of zeros.

#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/scratch.h"
#include "cpu/simd/deform_conv2d.h"
#include "cpu/simd/transpose.h"
#include "cpu/tensor.h"
#include "ops/deform_conv2d.h"

namespace dynamask {

// The same tensor, in `dtype`, copied if it is neither contiguous nor channels_last.
inline Tensor dense_images(const Tensor& t, ScalarType dtype) {
  const auto converted = to(t, dtype);
  return is_channels_last(converted) ? converted : contiguous(converted);
}

// Uninitialised, [n, c, h, w], channels_last or contiguous.
inline Tensor empty_images(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w,
                           bool channels_last) {
  if (!channels_last) return empty(like, {n, c, h, w}, like.scalar_type());
  return torch::stable::empty({n, c, h, w}, like.scalar_type(), std::nullopt, like.device(),
                              std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);
}

// A tensor of dense_images.
template <typename T>
struct Images {
  T* data;
  int64_t channels, height, width;
  int64_t channel_stride, pixel_stride;

  Images(T* data, const Tensor& t)
      : data(data), channels(t.size(1)), height(t.size(2)), width(t.size(3)) {
    const bool rows = is_channels_last(t);
    channel_stride = rows ? 1 : height * width;
    pixel_stride = rows ? channels : 1;
  }
  int64_t pixels() const { return height * width; }
  T* image(int64_t n) const { return data + n * channels * pixels(); }
  bool channels_last() const { return pixel_stride != 1; }
};

template <typename T>
Images<const T> read_images(const Tensor& t) {
  return {static_cast<const T*>(t.data_ptr()), t};
}
template <typename T>
Images<T> write_images(const Tensor& t) {
  return {static_cast<T*>(t.data_ptr()), t};
}

// Images [height + 2, width + 2, channels] with a ring of zeros, so that all four neighbours of a
// position can be read without asking where it is. Below each lies one more row of zeros, since
// positions outside are moved to row `height` or column `width` (whose right neighbour is the left
// end of the next row).
template <typename T>
class RingedImages {
 public:
  RingedImages(const DeformConv2dShape& s, int64_t count)
      : channels_(s.channels),
        row_((s.width + 2) * s.channels),
        image_((s.height + 3) * row_),
        height_(s.height),
        width_(s.width),
        memory_(count * image_ + channels_ + kSlack) {
    memory_.fill_with_zeros();
  }

  void fill_with_zeros(int64_t slot) { std::fill_n(memory_.data() + slot * image_, image_, T{}); }

  void copy_row_from(const Images<const T>& images, int64_t n, int64_t slot, int64_t y) {
    const T* from = images.image(n) + y * width_ * images.pixel_stride;
    T* to = first_pixel(slot) + y * row_;
    if (images.channels_last())
      std::copy_n(from, width_ * channels_, to);
    else
      simd::transpose_kernels().of(T{}).run(from, images.channel_stride, to, channels_, channels_,
                                            width_);
  }

  void copy_row_to(const Images<T>& images, int64_t n, int64_t slot, int64_t y) {
    const T* from = first_pixel(slot) + y * row_;
    T* to = images.image(n) + y * width_ * images.pixel_stride;
    if (images.channels_last())
      std::copy_n(from, width_ * channels_, to);
    else
      simd::transpose_kernels().of(T{}).run(from, channels_, to, images.channel_stride, width_,
                                            channels_);
  }

  simd::DeformImage<T> channels(int64_t slot, int64_t channel, int64_t count) {
    return {memory_.data() + slot * image_ + channel, row_, channels_, count};
  }
  simd::DeformImage<const T> channels(int64_t slot, int64_t channel, int64_t count) const {
    return {memory_.data() + slot * image_ + channel, row_, channels_, count};
  }

 private:
  static constexpr int64_t kSlack = 64 / sizeof(T);  // a vector may begin at the last channel

  T* first_pixel(int64_t slot) { return memory_.data() + slot * image_ + row_ + channels_; }

  int64_t channels_, row_, image_, height_, width_;
  Scratch<T> memory_;
};

}  // namespace dynamask
