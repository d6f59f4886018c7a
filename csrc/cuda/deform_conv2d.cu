#include "cuda/deform_conv2d.cuh"
#include "cuda/deform_tensors.h"

namespace dynamask::cuda {
namespace {

Tensor convolve(const Tensor& input, const Tensor& offset, const Tensor& weight,
                const std::optional<Tensor>& bias_, std::vector<int64_t> stride,
                std::vector<int64_t> padding, std::vector<int64_t> dilation,
                const std::optional<Tensor>& mask) {
  const DeformTensors given(input, offset, weight, mask, stride, padding, dilation);
  const DeformConv2dShape& s = given.shape;
  const std::vector<int64_t> size{s.batch, s.out_channels, s.out_height, s.out_width};
  const auto out = empty_maps(input, size, input.scalar_type(), true);
  const auto weights = given.weight_by_taps(false);
  std::optional<Tensor> bias;
  if (bias_) {
    STD_TORCH_CHECK(bias_->numel() == s.out_channels, "deform_conv2d: expected bias [",
                    s.out_channels, "]");
    bias = contiguous(to(*bias_, sum_dtype(input)));
  }
  with_storage_type(input, [&](auto storage, auto sum) {
    using S = decltype(storage);
    using T = decltype(sum);
    deform_conv2d(given.device.stream, given.as_kernels_see_it<S, T>(), weights.const_data_ptr<T>(),
                  bias ? bias->const_data_ptr<T>() : nullptr, static_cast<S*>(out.data_ptr()));
  });
  return in_format(out, given.rows);
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) { m.impl("deform_conv2d", TORCH_BOX(&convolve)); }

}  // namespace dynamask::cuda
