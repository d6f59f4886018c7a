#include "cuda/feature_tensors.h"
#include "cuda/grouped_mask_head.cuh"

namespace dynamask::cuda {
namespace {

bool are_channels_last(const std::vector<Tensor>& features) {
  for (const Tensor& f : features)
    if (!is_channels_last(f)) return false;
  return true;
}

bool are_of(ScalarType dtype, const std::vector<Tensor>& tensors) {
  for (const Tensor& t : tensors)
    if (t.scalar_type() != dtype) return false;
  return true;
}

std::vector<Tensor> dense(const std::vector<Tensor>& tensors, ScalarType dtype) {
  std::vector<Tensor> made;
  for (const Tensor& t : tensors) made.push_back(contiguous(to(t, dtype)));
  return made;
}

Tensor grouped_mask_head(std::vector<Tensor> features, std::vector<Tensor> weights,
                         std::vector<Tensor> biases, const Tensor& labels_, const Tensor& state_,
                         const Tensor& order_, const Tensor& mask_offsets_) {
  STD_TORCH_CHECK(features.size() <= kMaxExits, "grouped_mask_head: expected at most ", kMaxExits,
                  " exits, got ", features.size());
  const Tensor& last = features.back();
  const Device device(last);
  const auto dtype = last.scalar_type();
  const bool rows = are_channels_last(features);
  for (Tensor& f : features) f = torch::stable::contiguous(to(f, dtype), format_of(rows));
  const auto labels = contiguous(to(labels_, ScalarType::Long));
  const auto state = contiguous(to(state_, ScalarType::Long));
  const auto order = contiguous(order_), mask_offsets = contiguous(mask_offsets_);
  auto values = empty(last, {last.size(0) * last.size(2) * last.size(3)}, dtype);

  // weights as they lie in memory, or where some are of another dtype as sums are made
  const bool same = are_of(dtype, weights) && are_of(dtype, biases);
  weights = dense(weights, same ? dtype : sum_dtype(last));
  biases = dense(biases, same ? dtype : sum_dtype(last));
  with_storage_type(last, [&](auto s, auto t) {
    using S = decltype(s);
    using T = decltype(t);
    const auto run = [&](auto w) {
      using W = decltype(w);
      MaskExits<S, W> exits{};
      exits.plan = {last.size(0),
                    static_cast<int64_t>(features.size()),
                    values.numel(),
                    labels.const_data_ptr<int64_t>(),
                    state.const_data_ptr<int64_t>(),
                    order.const_data_ptr<int64_t>(),
                    mask_offsets.const_data_ptr<int64_t>()};
      for (size_t k = 0; k < features.size(); ++k) {
        const Tensor& f = features[k];
        exits.shape[k] = {f.size(1), f.size(2) * f.size(3), weights[k].size(0)};
        exits.features[k] = static_cast<const S*>(f.data_ptr());
        exits.weight[k] = static_cast<const W*>(weights[k].data_ptr());
        exits.bias[k] = static_cast<const W*>(biases[k].data_ptr());
      }
      launch_grouped_mask_head<T>(device.stream, exits, static_cast<S*>(values.data_ptr()), rows);
    };
    if (same)
      run(S{});
    else
      run(T{});
  });
  return values;
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) { m.impl("grouped_mask_head", TORCH_BOX(&grouped_mask_head)); }

}  // namespace dynamask::cuda
