#include "ops/class_logits.h"

#include <algorithm>
#include <cstring>

#include "cpu/simd/class_logits.h"
#include "cpu/stored_type.h"

namespace dynamask {
namespace {

// Work for one RoI is small, so a thread takes several.
constexpr int64_t kElementsPerTask = 1 << 16;

Tensor class_logits(const Tensor& features_, const Tensor& weight_,
                    const std::optional<Tensor>& bias_, const Tensor& labels_) {
  const auto dtype = compute_dtype(features_);
  const bool rows = is_channels_last(features_);
  const auto features = rows ? features_ : contiguous(features_);
  const auto weight = contiguous(to(weight_, dtype));
  const auto labels = contiguous(to(labels_, ScalarType::Long));
  const ClassLogitsShape s{features.size(0), features.size(1), features.size(2), features.size(3),
                           weight.size(0)};
  auto out = empty(features, {s.rois, s.height, s.width}, features.scalar_type());
  std::optional<Tensor> bias;
  if (bias_) bias = contiguous(to(*bias_, dtype));

  with_stored_type(features, [&](auto stored, auto zero) {
    using S = decltype(stored);
    using T = decltype(zero);
    const auto& kernel = simd::class_logits_kernels().of(stored);
    const auto run = rows ? kernel.rows : kernel.planes;
    const int64_t pixels = s.height * s.width;
    const auto* f = static_cast<const S*>(features.const_data_ptr());
    const auto* w = weight.template const_data_ptr<T>();
    const auto* b = bias ? bias->template const_data_ptr<T>() : nullptr;
    const auto* label = labels.const_data_ptr<int64_t>();
    auto* o = static_cast<S*>(out.mutable_data_ptr());
    const int64_t grain =
        std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, s.channels * pixels));
    parallel_for(0, s.rois, grain, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t k = label[n];
        if (k < 0 || k >= s.classes) {
          std::memset(static_cast<void*>(o + n * pixels), 0, pixels * sizeof(S));
          continue;
        }
        run(f + n * s.channels * pixels, w + k * s.channels, b ? b[k] : T(0), o + n * pixels,
            s.channels, pixels);
      }
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) { m.impl("class_logits", TORCH_BOX(&class_logits)); }

}  // namespace dynamask
