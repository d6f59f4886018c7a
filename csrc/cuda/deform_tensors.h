// The tensors that deform_conv2d and its backward take, as their kernels read them.

#pragma once

#include <optional>
#include <string>

#include "cuda/deform_columns.h"
#include "cuda/feature_tensors.h"

namespace dynamask::cuda {

template <typename T>
PixelPlanes<T> planes_of(const Tensor& t) {
  return {static_cast<std::remove_const_t<T>*>(t.data_ptr()), t.stride(0), t.stride(1), t.stride(2),
          t.stride(3)};
}

struct DeformTensors {
  Device device;
  DeformConv2dShape shape;
  bool rows;  // whether the features came with their channels innermost
  Tensor features, offset, weight;
  std::optional<Tensor> mask;

  DeformTensors(const Tensor& input, const Tensor& offset_, const Tensor& weight_,
                const std::optional<Tensor>& mask_, const std::vector<int64_t>& stride,
                const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation)
      : device(input),
        shape(checked_shape(input, offset_, weight_, mask_, stride, padding, dilation)),
        rows(is_channels_last(input)),
        features(torch::stable::contiguous(input, format_of(true))),
        offset(to(offset_, sum_dtype(input))),
        weight(contiguous(to(weight_, sum_dtype(input)))) {
    if (mask_) mask = to(*mask_, sum_dtype(input));
  }

  // [groups, taps, C / groups, O / groups], or the last two the other way around.
  Tensor weight_by_taps(bool outs_first) const {
    const int64_t outs = shape.group_out_channels(), channels = shape.group_channels();
    auto taps = torch::stable::view(weight, {shape.groups, outs, channels, shape.taps()});
    taps = torch::stable::transpose(taps, 1, 3);
    return contiguous(outs_first ? torch::stable::transpose(taps, 2, 3) : taps);
  }

  template <typename S, typename T>
  DeformInput<S, T> as_kernels_see_it() const {
    const S* data = static_cast<const S*>(features.data_ptr());
    return {shape, data, fits_packs_of_four(data, shape), planes_of<const T>(offset),
            mask ? planes_of<const T>(*mask) : PixelPlanes<const T>{}};
  }

 private:
  static DeformConv2dShape checked_shape(const Tensor& input, const Tensor& offset,
                                         const Tensor& weight, const std::optional<Tensor>& mask,
                                         const std::vector<int64_t>& stride,
                                         const std::vector<int64_t>& padding,
                                         const std::vector<int64_t>& dilation) {
    const auto s = deform_conv2d_shape(input, offset, weight, mask, stride, padding, dilation);
    STD_TORCH_CHECK(s, "deform_conv2d: expected shapes that fit together");
    STD_TORCH_CHECK(
        s->is_countable(),
        "deform_conv2d: expected images of fewer than 2^24 rows and columns and 2^31 pixels, got ",
        s->height, " x ", s->width);
    return *s;
  }
};

}  // namespace dynamask::cuda
