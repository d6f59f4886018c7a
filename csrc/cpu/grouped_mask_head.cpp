#include "ops/grouped_mask_head.h"

#include <algorithm>
#include <cstring>

#include "cpu/simd/class_logits.h"
#include "cpu/stored_type.h"

namespace dynamask {
namespace {

// One mask size: what it reads, dense, and the kernel for its layout.
struct MaskExit {
  Tensor features, weight, bias;
  bool rows;
  MaskExitShape shape;

  MaskExit(const Tensor& f, const Tensor& w, const Tensor& b, ScalarType dtype)
      : features(is_channels_last(f) ? f : contiguous(f)),
        weight(contiguous(to(w, dtype))),
        bias(contiguous(to(b, dtype))),
        rows(is_channels_last(f)),
        shape{f.size(1), f.size(2) * f.size(3), w.size(0)} {}
};

Tensor grouped_mask_head(std::vector<Tensor> features, std::vector<Tensor> weights,
                         std::vector<Tensor> biases, const Tensor& labels_, const Tensor& state_,
                         const Tensor& order, const Tensor& mask_offsets) {
  const auto labels = contiguous(to(labels_, ScalarType::Long));
  const auto state = contiguous(to(state_, ScalarType::Long));
  std::vector<MaskExit> exits;
  std::vector<MaskExitShape> shapes;
  for (size_t k = 0; k < features.size(); ++k) {
    exits.emplace_back(features[k], weights[k], biases[k], compute_dtype(features[0]));
    shapes.push_back(exits[k].shape);
  }
  const int64_t rois = features[0].size(0), numel = rois * shapes.back().pixels;
  auto values = empty(features[0], {numel}, features[0].scalar_type());
  const MaskPlan plan{rois,
                      static_cast<int64_t>(exits.size()),
                      numel,
                      labels.const_data_ptr<int64_t>(),
                      state.const_data_ptr<int64_t>(),
                      order.const_data_ptr<int64_t>(),
                      mask_offsets.const_data_ptr<int64_t>()};

  with_stored_type(values, [&](auto stored, auto zero) {
    using S = decltype(stored);
    using T = decltype(zero);
    const auto& kernel = simd::class_logits_kernels().of(stored);
    auto* out = static_cast<S*>(values.mutable_data_ptr());
    const auto run = [&](int64_t place) {
      const PlannedMask mask = planned_mask(plan, shapes.data(), place);
      if (mask.exit < 0) return;
      const MaskExit& exit = exits[mask.exit];
      const auto [channels, pixels, classes] = exit.shape;
      if (mask.row < 0) {
        std::memset(static_cast<void*>(out + mask.start), 0, pixels * sizeof(S));
        return;
      }
      const auto* f = static_cast<const S*>(exit.features.const_data_ptr());
      const auto* w = exit.weight.template const_data_ptr<T>() + mask.row * channels;
      (exit.rows ? kernel.rows : kernel.planes)(f + place * channels * pixels, w,
                                                exit.bias.template const_data_ptr<T>()[mask.row],
                                                out + mask.start, channels, pixels);
    };
    // places are sorted by size, so threads take them in turn
    const int64_t threads = std::min<int64_t>(rois, torch::stable::get_num_threads());
    parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t thread = begin; thread < end; ++thread)
        for (int64_t place = thread; place < rois; place += threads) run(place);
    });
  });
  return values;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) {
  m.impl("grouped_mask_head", TORCH_BOX(&grouped_mask_head));
}

}  // namespace dynamask
