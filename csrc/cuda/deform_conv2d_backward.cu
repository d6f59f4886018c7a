#include "cuda/deform_conv2d_backward.cuh"
#include "cuda/deform_tensors.h"

namespace dynamask::cuda {
namespace {

template <typename S, typename T>
struct Backward {
  const DeformTensors& given;
  const Tensor& grad;  // [N, O, Ho, Wo], channels innermost
  const DeformInput<S, T> input;
  const S* grad_data;

  Backward(const DeformTensors& given, const Tensor& grad)
      : given(given),
        grad(grad),
        input(given.as_kernels_see_it<S, T>()),
        grad_data(static_cast<const S*>(grad.data_ptr())) {}

  // Gradients of the features (zeros to be added to), the offsets and the mask, if wanted.
  void reads(const std::optional<Tensor>& features, const std::optional<Tensor>& offset,
             const std::optional<Tensor>& mask, bool deterministic) const {
    const auto weight = given.weight_by_taps(true);
    const auto planes = [](const std::optional<Tensor>& t) {
      return t ? planes_of<T>(*t) : PixelPlanes<T>{};
    };
    const Stream stream = given.device.stream;
    if (!features || !deterministic) {
      T* sums = features ? features->mutable_data_ptr<T>() : nullptr;
      deform_conv2d_backward_reads(stream, input, grad_data, weight.const_data_ptr<T>(),
                                   FreeSums<T>{}, {sums, planes(offset), planes(mask)});
      return;
    }
    const auto largest = torch::stable::new_zeros(weight, {3}, weight.scalar_type());
    T* magnitudes = largest.mutable_data_ptr<T>();
    largest_magnitude(stream, grad_data, grad.numel(), magnitudes);
    largest_magnitude(stream, weight.const_data_ptr<T>(), weight.numel(), magnitudes + 1);
    if (given.mask) {
      const auto masks = contiguous(*given.mask);
      largest_magnitude(stream, masks.const_data_ptr<T>(), masks.numel(), magnitudes + 2);
    }
    const FixedSums<T> fixed{magnitudes, given.mask ? 3 : 2,
                             bits_of_fixed_sums(terms_of_a_feature(given.shape))};
    const auto whole = torch::stable::new_zeros(weight, {features->numel()}, ScalarType::Long);
    auto* sums = reinterpret_cast<unsigned long long*>(whole.mutable_data_ptr<int64_t>());
    deform_conv2d_backward_reads(stream, input, grad_data, weight.const_data_ptr<T>(), fixed,
                                 {sums, planes(offset), planes(mask)});
    from_fixed_sums(stream, sums, features->numel(), fixed, features->mutable_data_ptr<T>());
  }

  void weight(const Tensor& out) const {
    const WeightParts parts(given.shape);
    const auto sums = empty(out, {parts.count * out.numel()}, out.scalar_type());
    deform_conv2d_backward_weight(given.device.stream, input, grad_data, parts,
                                  sums.template mutable_data_ptr<T>(),
                                  out.template mutable_data_ptr<T>());
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> convolve_backward(
    const Tensor& grad_, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, std::vector<int64_t> stride, std::vector<int64_t> padding,
    std::vector<int64_t> dilation, bool needs_input, bool needs_offset, bool needs_weight,
    bool needs_mask, bool deterministic) {
  const DeformTensors given(input, offset, weight, mask, stride, padding, dilation);
  const DeformConv2dShape& s = given.shape;
  STD_TORCH_CHECK(grad_.dim() == 4 && grad_.size(0) == s.batch && grad_.size(1) == s.out_channels &&
                      grad_.size(2) == s.out_height && grad_.size(3) == s.out_width,
                  "deform_conv2d_backward: expected grad of the shape of the output");
  const auto grad = torch::stable::contiguous(to(grad_, input.scalar_type()), format_of(true));
  const auto dtype = sum_dtype(input);
  // In the layout of `like`, or in rows as they are summed.
  const auto gradient = [&](const Tensor& like, bool rows) {
    return empty_maps(like, {like.size(0), like.size(1), like.size(2), like.size(3)}, dtype, rows);
  };
  std::optional<Tensor> to_features, to_offset, to_mask, to_weight;
  if (needs_input) {
    to_features = gradient(input, true);
    torch::stable::zero_(*to_features);
  }
  if (needs_offset) to_offset = gradient(offset, is_channels_last(offset));
  if (needs_mask && mask) to_mask = gradient(*mask, is_channels_last(*mask));
  if (needs_weight) to_weight = gradient(weight, false);
  with_storage_type(input, [&](auto storage, auto sum) {
    const Backward<decltype(storage), decltype(sum)> backward(given, grad);
    if (to_features || to_offset || to_mask)
      backward.reads(to_features, to_offset, to_mask, deterministic);
    if (to_weight) backward.weight(*to_weight);
  });
  const auto answer = [](const std::optional<Tensor>& t, const Tensor& like) {
    return t ? to(*t, like.scalar_type()) : empty(like, {0}, like.scalar_type());
  };
  auto grad_input = answer(to_features, input);
  if (to_features) grad_input = in_format(grad_input, given.rows);
  return {grad_input, answer(to_offset, offset), answer(to_weight, weight),
          answer(to_mask, mask ? *mask : offset)};
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) { m.impl("deform_conv2d_backward", TORCH_BOX(&convolve_backward)); }

}  // namespace dynamask::cuda
