#include "ops/mask_edge_loss.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu/scratch.h"
#include "cpu/simd/mask_edge_loss.h"
#include "cpu/stored_type.h"

namespace dynamask {
namespace {

constexpr int64_t kPixelsPerTask = 1 << 13;

// Logits [N, H, W], or [N, K, H, W] of which each RoI has one class.
MaskEdgeLossShape shape_of(const Tensor& logits) {
  const int64_t d = logits.dim();
  STD_TORCH_CHECK(d == 3 || d == 4, "mask_edge_loss: expected logits [N, S, S] or [N, K, S, S]");
  return {logits.size(0), d == 4 ? logits.size(1) : 1, logits.size(d - 2), logits.size(d - 1)};
}

// The class of each RoI: what its label says if there are several, else the only one.
class Classes {
 public:
  Classes(const MaskEdgeLossShape& s, const std::optional<Tensor>& labels) : count_(s.classes) {
    STD_TORCH_CHECK(s.classes == 1 || labels, "mask_edge_loss: expected labels");
    if (s.classes == 1) return;
    labels_ = contiguous(to(*labels, ScalarType::Long));
    STD_TORCH_CHECK(labels_->numel() == s.rois, "mask_edge_loss: expected a label for each RoI");
    data_ = labels_->const_data_ptr<int64_t>();
  }
  int64_t of(int64_t n) const { return data_ ? data_[n] : 0; }
  bool has(int64_t k) const { return k >= 0 && k < count_; }

 private:
  int64_t count_;
  std::optional<Tensor> labels_;
  const int64_t* data_ = nullptr;
};

// The planes of the RoIs' own classes, wherever they lie.
template <typename S>
class Planes {
 public:
  Planes(const Tensor& t, const MaskEdgeLossShape& s)
      : data_(static_cast<const S*>(t.const_data_ptr())), height_(s.height), width_(s.width) {
    const int64_t d = t.dim();
    roi_ = t.stride(0), class_ = d == 4 ? t.stride(1) : 0;
    y_ = t.stride(d - 2), x_ = t.stride(d - 1);
  }
  bool are_dense() const { return (x_ == 1 || width_ == 1) && (y_ == width_ || height_ == 1); }

  // Plane k of RoI n, gathered in `scratch` if its pixels are not side by side
  const S* of(int64_t n, int64_t k, S* scratch) const {
    const S* from = data_ + n * roi_ + k * class_;
    if (are_dense()) return from;
    for (int64_t y = 0; y < height_; ++y)
      for (int64_t x = 0; x < width_; ++x) scratch[y * width_ + x] = from[y * y_ + x * x_];
    return scratch;
  }

 private:
  const S* data_;
  int64_t height_, width_, roi_, class_, y_, x_;
};

bool are_bytes(const Tensor& t) {
  return t.scalar_type() == ScalarType::Bool || t.scalar_type() == ScalarType::Byte;
}

int64_t rois_per_task(int64_t pixels) {
  return std::max<int64_t>(1, kPixelsPerTask / std::max<int64_t>(1, pixels));
}

// Targets are bytes or of type T; losses are `stride` apart; `errors` is null where none are
// wanted.
template <typename S, typename T>
void losses_of(const Planes<S>& planes, const Classes& classes, const Tensor& targets,
               const MaskEdgeLossShape& s, T* losses, int64_t stride, S* errors) {
  const auto& kernel = simd::mask_edge_loss_kernels().of(S{});
  const int64_t pixels = s.height * s.width;
  const bool bytes = are_bytes(targets);
  const auto* of_bytes = static_cast<const uint8_t*>(targets.const_data_ptr());
  const auto* of_numbers = static_cast<const T*>(targets.const_data_ptr());
  parallel_for(0, s.rois, rois_per_task(pixels), [&](int64_t begin, int64_t end) {
    Scratch<S> scratch(planes.are_dense() ? 0 : pixels);
    for (int64_t n = begin; n < end; ++n) {
      S* error = errors ? errors + n * pixels : nullptr;
      const int64_t k = classes.of(n), first = n * pixels;
      if (!classes.has(k)) {
        losses[n * stride] = 0;
        if (error) std::memset(static_cast<void*>(error), 0, pixels * sizeof(S));
        continue;
      }
      const S* logits = planes.of(n, k, scratch.data());
      const T sum = bytes ? kernel.of_bytes(logits, of_bytes + first, error, pixels)
                          : kernel.of_numbers(logits, of_numbers + first, error, pixels);
      losses[n * stride] = sum / T(pixels);
    }
  });
}

struct Losses {
  Tensor of_all;  // [N, M]
  std::vector<Tensor> errors;
};

// One column of the losses [N, M], and the errors [N, H, W] if they are wanted.
template <typename T>
void cross_entropy(const Tensor& logits, const Tensor& targets_,
                   const std::optional<Tensor>& labels, T* column, int64_t stride, Tensor* errors) {
  const auto s = shape_of(logits);
  const Classes classes(s, labels);
  const auto dtype = compute_dtype(logits);
  const auto targets = contiguous(are_bytes(targets_) ? targets_ : to(targets_, dtype));
  STD_TORCH_CHECK(targets.numel() == s.rois * s.height * s.width,
                  "mask_edge_loss: expected targets [N, S, S]");
  if (errors) *errors = empty(logits, {s.rois, s.height, s.width}, logits.scalar_type());
  with_stored_type(logits, [&](auto stored, auto zero) {
    using S = decltype(stored);
    if constexpr (std::is_same_v<decltype(zero), T>)
      losses_of<S, T>(Planes<S>(logits, s), classes, targets, s, column, stride,
                      errors ? static_cast<S*>(errors->mutable_data_ptr()) : nullptr);
  });
}

Losses losses_of_all(const std::vector<Tensor>& logits, const std::vector<Tensor>& targets,
                     const std::optional<Tensor>& labels, bool needs_error, const Tensor& like) {
  const auto count = static_cast<int64_t>(logits.size());
  STD_TORCH_CHECK(logits.size() == targets.size(), "mask_edge_loss: expected targets for ", count,
                  " tensors of logits, got ", targets.size());
  Losses all{empty(like, {like.size(0), count}, compute_dtype(like)), {}};
  for (int64_t k = 0; k < count; ++k) {
    STD_TORCH_CHECK(
        logits[k].size(0) == like.size(0) && compute_dtype(logits[k]) == compute_dtype(like),
        "mask_edge_loss: expected logits of one precision for the same RoIs");
    Tensor* errors = needs_error ? &all.errors.emplace_back() : nullptr;
    with_compute_type(like, [&](auto zero) {
      using T = decltype(zero);
      cross_entropy<T>(logits[k], targets[k], labels, all.of_all.template mutable_data_ptr<T>() + k,
                       count, errors);
    });
  }
  return all;
}

std::tuple<Tensor, Tensor, std::vector<Tensor>, std::vector<Tensor>> mask_edge_loss(
    const std::vector<Tensor>& mask_logits, const std::vector<Tensor>& mask_targets,
    const std::vector<Tensor>& edge_logits, const std::vector<Tensor>& edge_targets,
    const std::optional<Tensor>& labels, bool needs_mask, bool needs_edge) {
  STD_TORCH_CHECK(!mask_logits.empty(), "mask_edge_loss: expected logits of masks");
  auto masks = losses_of_all(mask_logits, mask_targets, labels, needs_mask, mask_logits[0]);
  auto edges = losses_of_all(edge_logits, edge_targets, labels, needs_edge,
                             edge_logits.empty() ? mask_logits[0] : edge_logits[0]);
  return {masks.of_all, edges.of_all, masks.errors, edges.errors};
}

// grad [N], errors [N, H, W] -> out [N, K, H, W], zero but for the class of each RoI.
template <typename S, typename T>
void spread(const T* grad, const S* errors, const Classes& classes, const MaskEdgeLossShape& s,
            S* out) {
  const auto& kernel = simd::mask_edge_loss_kernels().of(S{});
  const int64_t pixels = s.height * s.width;
  parallel_for(0, s.rois, rois_per_task(s.classes * pixels), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      S* of_roi = out + n * s.classes * pixels;
      const auto clear = [&](int64_t from, int64_t to) {
        std::memset(static_cast<void*>(of_roi + from * pixels), 0,
                    (to - from) * pixels * sizeof(S));
      };
      const int64_t k = classes.of(n);
      if (!classes.has(k)) {
        clear(0, s.classes);
        continue;
      }
      clear(0, k);
      kernel.scale(errors + n * pixels, grad[n] / T(pixels), of_roi + k * pixels, pixels);
      clear(k + 1, s.classes);
    }
  });
}

// Of logits [N, H, W], num_classes being 0, or [N, num_classes, H, W].
Tensor gradient(const Tensor& grad_, const Tensor& error_, const std::optional<Tensor>& labels,
                int64_t num_classes) {
  const auto error = contiguous(error_);
  const auto grad = contiguous(to(grad_, compute_dtype(error)));
  const MaskEdgeLossShape s{error.size(0), std::max<int64_t>(1, num_classes), error.size(1),
                            error.size(2)};
  STD_TORCH_CHECK(grad.numel() == s.rois, "mask_edge_loss: expected a gradient for each RoI");
  const Classes classes(s, labels);
  std::vector<int64_t> sizes{s.rois, s.height, s.width};
  if (num_classes > 0) sizes.insert(sizes.begin() + 1, num_classes);
  auto out = empty(error, sizes, error.scalar_type());
  with_stored_type(error, [&](auto stored, auto zero) {
    using S = decltype(stored);
    using T = decltype(zero);
    spread<S, T>(grad.template const_data_ptr<T>(), static_cast<const S*>(error.const_data_ptr()),
                 classes, s, static_cast<S*>(out.mutable_data_ptr()));
  });
  return out;
}

std::vector<Tensor> mask_edge_loss_backward(const std::vector<Tensor>& grads,
                                            const std::vector<Tensor>& errors,
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

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) {
  m.impl("mask_edge_loss", TORCH_BOX(&mask_edge_loss));
  m.impl("mask_edge_loss_backward", TORCH_BOX(&mask_edge_loss_backward));
}

}  // namespace dynamask
