#include <optional>

#include "cuda/feature_tensors.h"
#include "cuda/mask_edge_loss.cuh"

namespace dynamask::cuda {
namespace {

bool are_bytes(const Tensor& t) {
  return t.scalar_type() == ScalarType::Bool || t.scalar_type() == ScalarType::Byte;
}

// The labels as kernels read them, or none where there is nothing to choose from.
std::optional<Tensor> labels_of(int64_t rois, int64_t classes,
                                const std::optional<Tensor>& labels) {
  if (classes <= 1) return std::nullopt;
  STD_TORCH_CHECK(labels, "mask_edge_loss: expected labels");
  STD_TORCH_CHECK(labels->numel() == rois, "mask_edge_loss: expected a label for each RoI");
  return contiguous(to(*labels, ScalarType::Long));
}

template <typename S>
LogitPlanes<S> planes_of(const Tensor& logits, const std::optional<Tensor>& labels) {
  const int64_t d = logits.dim();
  LogitPlanes<S> a{};
  a.logits = static_cast<const S*>(logits.const_data_ptr());
  a.labels = labels ? labels->const_data_ptr<int64_t>() : nullptr;
  a.shape = {logits.size(0), d == 4 ? logits.size(1) : 1, logits.size(d - 2), logits.size(d - 1)};
  a.stride_n = logits.stride(0), a.stride_k = d == 4 ? logits.stride(1) : 0;
  a.stride_y = logits.stride(d - 2), a.stride_x = logits.stride(d - 1);
  return a;
}

// The losses [N], and the errors [N, H, W] or an empty tensor.
std::tuple<Tensor, Tensor> cross_entropy(const Tensor& logits, const Tensor& targets_,
                                         const std::optional<Tensor>& labels_, bool needs_error) {
  const int64_t d = logits.dim();
  STD_TORCH_CHECK(d == 3 || d == 4, "mask_edge_loss: expected logits [N, S, S] or [N, K, S, S]");
  const int64_t rois = logits.size(0), height = logits.size(d - 2), width = logits.size(d - 1);
  const Device device(logits);
  const auto labels = labels_of(rois, d == 4 ? logits.size(1) : 1, labels_);
  const auto dtype = sum_dtype(logits);
  const auto targets = contiguous(are_bytes(targets_) ? targets_ : to(targets_, dtype));
  STD_TORCH_CHECK(targets.numel() == rois * height * width,
                  "mask_edge_loss: expected targets [N, S, S]");
  auto losses = empty(logits, {rois}, dtype);
  auto errors = needs_error ? empty(logits, {rois, height, width}, logits.scalar_type())
                            : empty(logits, {0}, logits.scalar_type());
  with_storage_type(logits, [&](auto stored, auto zero) {
    using S = decltype(stored);
    using T = decltype(zero);
    const auto planes = planes_of<S>(logits, labels);
    auto* to_losses = losses.template mutable_data_ptr<T>();
    auto* to_errors = needs_error ? static_cast<S*>(errors.mutable_data_ptr()) : nullptr;
    const void* from = targets.const_data_ptr();
    if (are_bytes(targets))
      mask_edge_loss(device.stream, planes, static_cast<const uint8_t*>(from), to_losses,
                     to_errors);
    else
      mask_edge_loss(device.stream, planes, static_cast<const T*>(from), to_losses, to_errors);
  });
  return {losses, errors};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> of_masks_and_edges(
    const Tensor& mask_logits, const Tensor& mask_targets, const std::optional<Tensor>& edge_logits,
    const std::optional<Tensor>& edge_targets, const std::optional<Tensor>& labels, bool needs_mask,
    bool needs_edge) {
  auto [mask, mask_error] = cross_entropy(mask_logits, mask_targets, labels, needs_mask);
  if (!edge_logits) {
    return {mask, empty(mask, {0}, mask.scalar_type()), mask_error,
            empty(mask_error, {0}, mask_error.scalar_type())};
  }
  STD_TORCH_CHECK(edge_targets, "mask_edge_loss: expected edge_targets");
  auto [edge, edge_error] = cross_entropy(*edge_logits, *edge_targets, labels, needs_edge);
  return {mask, edge, mask_error, edge_error};
}

// Of logits [N, H, W], num_classes being 0, or [N, num_classes, H, W].
Tensor backward(const Tensor& grad_, const Tensor& error_, const std::optional<Tensor>& labels_,
                int64_t num_classes) {
  const Device device(error_);
  const auto error = contiguous(error_);
  const auto grad = contiguous(to(grad_, sum_dtype(error)));
  const int64_t rois = error.size(0), height = error.size(1), width = error.size(2);
  STD_TORCH_CHECK(grad.numel() == rois, "mask_edge_loss: expected a gradient for each RoI");
  const auto labels = labels_of(rois, num_classes, labels_);
  std::vector<int64_t> sizes{rois, height, width};
  if (num_classes > 0) sizes.insert(sizes.begin() + 1, num_classes);
  auto out = empty(error, sizes, error.scalar_type());
  with_storage_type(error, [&](auto stored, auto zero) {
    using S = decltype(stored);
    using T = decltype(zero);
    const auto planes = planes_of<S>(out, labels);
    mask_edge_loss_backward(device.stream, planes, grad.template const_data_ptr<T>(),
                            static_cast<const S*>(error.const_data_ptr()),
                            static_cast<S*>(out.mutable_data_ptr()));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CUDA, m) {
  m.impl("mask_edge_loss", TORCH_BOX(&of_masks_and_edges));
  m.impl("mask_edge_loss_backward", TORCH_BOX(&backward));
}

}  // namespace dynamask::cuda
