#include "cuda/pyramid_pooling.h"

namespace dynamask::cuda {
namespace {

template <typename T>
RoiPooling<T> as_kernels_see_it(const PyramidPooling& pooling, const Tensor& boxes, int64_t batch,
                                int64_t channels, const std::vector<int64_t>& sizes) {
  RoiPooling<T> a{};
  a.boxes = boxes.const_data_ptr<T>();
  a.rois = boxes.size(0), a.batch = batch, a.channels = channels;
  a.sampling_ratio = pooling.sampling_ratio, a.aligned = pooling.aligned, a.rule = pooling.rule;
  const auto levels = static_cast<int64_t>(pooling.scales.size());
  STD_TORCH_CHECK(levels <= kMaxLevels, "multiscale_roi_align: expected at most ", kMaxLevels,
                  " maps, got ", levels);
  for (int64_t l = 0; l < levels; ++l) {
    a.heights[l] = sizes[2 * l], a.widths[l] = sizes[2 * l + 1];
    a.scales[l] = static_cast<T>(pooling.scales[l]);
  }
  return a;
}

}  // namespace

std::vector<Tensor> PyramidPooling::forward(const std::vector<Tensor>& features_,
                                            const Tensor& boxes_,
                                            const std::vector<int64_t>& output_sizes) const {
  const Tensor& first = features_[0];
  const Device device(first);
  const bool rows = is_channels_last(first);
  std::vector<Tensor> features;
  std::vector<int64_t> sizes;
  for (const Tensor& f : features_) {
    features.push_back(torch::stable::contiguous(f, format_of(rows)));
    sizes.insert(sizes.end(), {f.size(2), f.size(3)});
  }
  const auto boxes = contiguous(to(boxes_, sum_dtype(first)));
  const int64_t rois = boxes.size(0), channels = first.size(1);
  STD_TORCH_CHECK(output_sizes.size() <= 2 * kMaxOutputs, "multiscale_roi_align: expected at most ",
                  kMaxOutputs, " sizes, got ", output_sizes.size() / 2);
  std::vector<Tensor> outs;
  for (size_t k = 0; k < output_sizes.size(); k += 2)
    outs.push_back(empty_maps(first, {rois, channels, output_sizes[k], output_sizes[k + 1]},
                              first.scalar_type(), rows));
  with_storage_type(first, [&](auto s, auto t) {
    using S = decltype(s);
    using T = decltype(t);
    const auto a = as_kernels_see_it<T>(*this, boxes, first.size(0), channels, sizes);
    Maps<const S> maps{};
    for (size_t l = 0; l < features.size(); ++l)
      maps.level[l] = static_cast<const S*>(features[l].data_ptr());
    PooledOutputs<S> to{};
    for (const Tensor& out : outs)
      if (out.numel() > 0) to.add({out.size(2), out.size(3)}, static_cast<S*>(out.data_ptr()));
    launch_roi_align(device.stream, a, maps, to, rows);
  });
  return outs;
}

std::vector<Tensor> PyramidPooling::backward(const Tensor& grad_, const Tensor& boxes_,
                                             int64_t batch, const std::vector<int64_t>& sizes,
                                             bool channels_last, bool deterministic) const {
  const Device device(grad_);
  const auto dtype = sum_dtype(grad_);
  const auto boxes = contiguous(to(boxes_, dtype));
  const auto grad = torch::stable::contiguous(grad_, format_of(channels_last));
  const int64_t channels = grad.size(1);
  std::vector<Tensor> maps;
  for (size_t l = 0; l < sizes.size(); l += 2) {
    maps.push_back(
        empty_maps(grad, {batch, channels, sizes[l], sizes[l + 1]}, dtype, channels_last));
    if (!deterministic || grad.numel() == 0) torch::stable::zero_(maps.back());
  }
  if (grad.numel() > 0)
    with_storage_type(grad, [&](auto s, auto t) {
      using S = decltype(s);
      using T = decltype(t);
      const auto a = as_kernels_see_it<T>(*this, boxes, batch, channels, sizes);
      const Bins bins{grad.size(2), grad.size(3)};
      const S* from = static_cast<const S*>(grad.data_ptr());
      Maps<T> to{};
      for (size_t l = 0; l < maps.size(); ++l) to.level[l] = maps[l].mutable_data_ptr<T>();
      const auto add =
          deterministic ? launch_roi_align_gather<S, T> : launch_roi_align_scatter<S, T>;
      add(device.stream, a, bins, from, to, channels_last);
    });
  for (Tensor& map : maps) map = to(map, grad_.scalar_type());
  return maps;
}

}  // namespace dynamask::cuda
