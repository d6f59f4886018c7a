#include <optional>
#include <tuple>
#include <vector>

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

// One column of the losses [N, M], and the errors [N, H, W] if they are wanted.
void cross_entropy(const Device& device, const Tensor& logits, const Tensor& targets_,
                   const std::optional<Tensor>& labels_, const Tensor& losses, int64_t column,
                   Tensor* errors) {
  const int64_t d = logits.dim();
  STD_TORCH_CHECK(d == 3 || d == 4, "mask_edge_loss: expected logits [N, S, S] or [N, K, S, S]");
  const int64_t rois = logits.size(0), height = logits.size(d - 2), width = logits.size(d - 1);
  STD_TORCH_CHECK(rois == losses.size(0) && sum_dtype(logits) == losses.scalar_type(),
                  "mask_edge_loss: expected logits of one precision for the same RoIs");
  const auto labels = labels_of(rois, d == 4 ? logits.size(1) : 1, labels_);
  const auto targets =
      contiguous(are_bytes(targets_) ? targets_ : to(targets_, losses.scalar_type()));
  STD_TORCH_CHECK(targets.numel() == rois * height * width,
                  "mask_edge_loss: expected targets [N, S, S]");
  if (errors) *errors = empty(logits, {rois, height, width}, logits.scalar_type());
  with_storage_type(logits, [&](auto stored, auto zero) {
    using S = decltype(stored);
    using T = decltype(zero);
    const auto planes = planes_of<S>(logits, labels);
    auto* to_losses = losses.template mutable_data_ptr<T>() + column;
    auto* to_errors = errors ? static_cast<S*>(errors->mutable_data_ptr()) : nullptr;
    const auto run = [&](const auto* from) {
      mask_edge_loss(device.stream, planes, from, to_losses, losses.size(1), to_errors);
    };
    if (are_bytes(targets))
      run(static_cast<const uint8_t*>(targets.const_data_ptr()));
    else
      run(targets.template const_data_ptr<T>());
  });
}

struct Losses {
  Tensor of_all;  // [N, M]
  std::vector<Tensor> errors;
};

Losses losses_of_all(const Device& device, const std::vector<Tensor>& logits,
                     const std::vector<Tensor>& targets, const std::optional<Tensor>& labels,
                     bool needs_error, const Tensor& like) {
  const auto count = static_cast<int64_t>(logits.size());
  STD_TORCH_CHECK(logits.size() == targets.size(), "mask_edge_loss: expected targets for ", count,
                  " tensors of logits, got ", targets.size());
  Losses all{empty(like, {like.size(0), count}, sum_dtype(like)), {}};
  for (int64_t k = 0; k < count; ++k) {
    Tensor* errors = needs_error ? &all.errors.emplace_back() : nullptr;
    cross_entropy(device, logits[k], targets[k], labels, all.of_all, k, errors);
  }
  return all;
}

std::tuple<Tensor, Tensor, std::vector<Tensor>, std::vector<Tensor>> of_masks_and_edges(
    const std::vector<Tensor>& mask_logits, const std::vector<Tensor>& mask_targets,
    const std::vector<Tensor>& edge_logits, const std::vector<Tensor>& edge_targets,
    const std::optional<Tensor>& labels, bool needs_mask, bool needs_edge) {
  STD_TORCH_CHECK(!mask_logits.empty(), "mask_edge_loss: expected logits of masks");
  const Device device(mask_logits[0]);
  auto masks = losses_of_all(device, mask_logits, mask_targets, labels, needs_mask, mask_logits[0]);
  auto edges = losses_of_all(device, edge_logits, edge_targets, labels, needs_edge,
                             edge_logits.empty() ? mask_logits[0] : edge_logits[0]);
  return {masks.of_all, edges.of_all, masks.errors, edges.errors};
}

// Of logits [N, H, W], num_classes being 0, or [N, num_classes, H, W].
Tensor gradient(const Tensor& grad_, const Tensor& error_, const std::optional<Tensor>& labels_,
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

std::vector<Tensor> gradients(const std::vector<Tensor>& grads, const std::vector<Tensor>& errors,
                              const std::optional<Tensor>& labels,
                              const std::vector<int64_t>& num_classes) {
  STD_TORCH_CHECK(grads.size() == errors.size() && errors.size() == num_classes.size(),
                  "mask_edge_loss: expected as many gradients and numbers of classes as errors");
  std::vector<Tensor> out;
  for (size_t k = 0; k < errors.size(); ++k)
    out.push_back(gradient(grads[k], errors[k], labels, num_classes[k]));
  return out;
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) {
  m.impl("mask_edge_loss", TORCH_BOX(&of_masks_and_edges));
  m.impl("mask_edge_loss_backward", TORCH_BOX(&gradients));
}

}  // namespace dynamask::cuda
