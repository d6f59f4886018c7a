#include <algorithm>
#include <array>
#include <optional>

#include "cuda/feature_tensors.h"
#include "cuda/nms.cuh"

namespace dynamask::cuda {
namespace {

struct Kept {
  Tensor keep, count;  // [max_keep] and [1], int64
};

// Positions by falling key, equal ones in order, NaN first.
Tensor falling_order(const Tensor& keys) {
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(keys), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t(0)), torch::stable::detail::from(true)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // the sorted keys, to be freed
  return torch::stable::detail::to<Tensor>(stack[1]);
}

template <typename T, typename Score>
Tensor sorted_by_score(Stream stream, const Tensor& boxes, const Tensor& scores,
                       const Tensor& dropped) {
  const int64_t count = scores.numel();
  const auto keys = empty(scores, {count}, scores.scalar_type());
  launch(stream, ceil_divide(count, 256), 256, nms_keys<T, Score>, boxes.const_data_ptr<T>(),
         scores.const_data_ptr<Score>(), count, keys.mutable_data_ptr<Score>(),
         dropped.mutable_data_ptr<uint8_t>());
  return falling_order(keys);
}

template <typename T>
Kept keep_of(const Tensor& boxes, const Tensor& scores_, const Tensor* groups_,
             double iou_threshold, int64_t max_keep) {
  const Device device(boxes);
  const int64_t count = boxes.size(0);
  const auto scores = contiguous(to(scores_, sum_dtype(scores_)));
  const Tensor dropped = empty(boxes, {count}, ScalarType::Byte);
  const Tensor order = scores.scalar_type() == ScalarType::Double
                           ? sorted_by_score<T, double>(device.stream, boxes, scores, dropped)
                           : sorted_by_score<T, float>(device.stream, boxes, scores, dropped);
  std::optional<Tensor> groups;
  if (groups_) groups = contiguous(to(*groups_, ScalarType::Long));

  Nms<T> a{};
  a.boxes = boxes.const_data_ptr<T>();
  a.groups = groups ? groups->const_data_ptr<int64_t>() : nullptr;
  a.order = order.const_data_ptr<int64_t>();
  a.dropped = dropped.const_data_ptr<uint8_t>();
  a.count = count, a.threshold = nms_threshold<T>(iou_threshold), a.max_keep = max_keep;
  const Tensor overlaps =
      empty(boxes, {std::min(kStripe, a.words() * kWord), a.words()}, ScalarType::Long);
  const Tensor removed = torch::stable::new_zeros(boxes, {a.words()}, ScalarType::Long);
  Kept kept{empty(boxes, {max_keep}, ScalarType::Long),
            torch::stable::new_zeros(boxes, {1}, ScalarType::Long)};
  a.overlaps = reinterpret_cast<uint64_t*>(overlaps.mutable_data_ptr<int64_t>());
  a.removed = reinterpret_cast<uint64_t*>(removed.mutable_data_ptr<int64_t>());
  a.keep = kept.keep.mutable_data_ptr<int64_t>();
  a.kept = kept.count.mutable_data_ptr<int64_t>();
  nms(device.stream, a);
  return kept;
}

Kept keep_of(const Tensor& boxes_, const Tensor& scores, const Tensor* groups, double iou_threshold,
             int64_t max_keep) {
  const auto boxes = contiguous(to(boxes_, sum_dtype(boxes_)));
  return boxes.scalar_type() == ScalarType::Double
             ? keep_of<double>(boxes, scores, groups, iou_threshold, max_keep)
             : keep_of<float>(boxes, scores, groups, iou_threshold, max_keep);
}

// Waits for the device: how many boxes stay is the shape of the output.
Tensor all_kept(const Tensor& boxes, const Tensor& scores, const Tensor* groups,
                double iou_threshold) {
  if (boxes.size(0) == 0) return empty(boxes, {0}, ScalarType::Long);
  const auto kept = keep_of(boxes, scores, groups, iou_threshold, boxes.size(0));
  const auto count =
      torch::stable::to(kept.count, torch::stable::Device(torch::headeronly::DeviceType::CPU, -1));
  auto keep = kept.keep;
  return torch::stable::narrow(keep, 0, 0, *count.const_data_ptr<int64_t>());
}

Tensor nms_of_all(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  return all_kept(boxes, scores, nullptr, iou_threshold);
}

Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs,
                   double iou_threshold) {
  return all_kept(boxes, scores, &idxs, iou_threshold);
}

std::tuple<Tensor, Tensor> batched_nms_fixed(const Tensor& boxes, const Tensor& scores,
                                             const Tensor& idxs, double iou_threshold,
                                             int64_t max_out) {
  const Device device(boxes);
  if (boxes.size(0) == 0 || max_out == 0)
    return {torch::stable::new_zeros(boxes, {max_out}, ScalarType::Long),
            torch::stable::new_zeros(boxes, {max_out}, ScalarType::Bool)};
  const auto kept = keep_of(boxes, scores, &idxs, iou_threshold, max_out);
  auto valid = empty(boxes, {max_out}, ScalarType::Bool);
  launch(device.stream, ceil_divide(max_out, 256), 256, nms_valid,
         kept.count.const_data_ptr<int64_t>(), max_out, kept.keep.mutable_data_ptr<int64_t>(),
         valid.mutable_data_ptr<bool>());
  return {kept.keep, valid};
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) {
  m.impl("nms", TORCH_BOX(&nms_of_all));
  m.impl("batched_nms", TORCH_BOX(&batched_nms));
  m.impl("batched_nms_fixed", TORCH_BOX(&batched_nms_fixed));
}

}  // namespace dynamask::cuda
