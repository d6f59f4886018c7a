#include <optional>

#include "cuda/class_logits.cuh"
#include "cuda/feature_tensors.h"

namespace dynamask::cuda {
namespace {

Tensor of_labelled_class(const Tensor& features_, const Tensor& weight_,
                         const std::optional<Tensor>& bias_, const Tensor& labels_) {
  const Device device(features_);
  const auto dtype = sum_dtype(features_);
  const bool rows = is_channels_last(features_);
  const auto features = rows ? features_ : contiguous(features_);
  const auto weight = contiguous(to(weight_, dtype));
  const auto labels = contiguous(to(labels_, ScalarType::Long));
  std::optional<Tensor> bias;
  if (bias_) bias = contiguous(to(*bias_, dtype));
  const ClassLogitsShape shape{features.size(0), features.size(1), features.size(2),
                               features.size(3), weight.size(0)};
  auto out = empty(features, {shape.rois, shape.height, shape.width}, features.scalar_type());
  with_storage_type(features, [&](auto stored, auto zero) {
    using S = decltype(stored);
    using T = decltype(zero);
    ClassLogits<S, T> a{};
    a.features = static_cast<const S*>(features.const_data_ptr());
    a.weight = weight.template const_data_ptr<T>();
    a.bias = bias ? bias->template const_data_ptr<T>() : nullptr;
    a.labels = labels.const_data_ptr<int64_t>();
    a.out = static_cast<S*>(out.mutable_data_ptr());
    a.shape = shape;
    class_logits(device.stream, a, rows);
  });
  return out;
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) { m.impl("class_logits", TORCH_BOX(&of_labelled_class)); }

}  // namespace dynamask::cuda
