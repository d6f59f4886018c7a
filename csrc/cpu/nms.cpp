#include "ops/nms.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/radix_sort.h"
#include "cpu/simd/nms.h"
#include "cpu/tensor.h"

namespace dynamask {
namespace {

// Below this many boxes another thread costs more than it helps.
constexpr int64_t kBoxesPerThread = 2048;

// The boxes that can be kept, by falling score.
template <typename T>
std::vector<int64_t> by_score(const Tensor& boxes, const Tensor& scores_) {
  const auto scores = contiguous(to(scores_, compute_dtype(scores_)));
  const T* box = boxes.const_data_ptr<T>();
  std::vector<int64_t> order;
  with_compute_type(scores, [&](auto zero) {
    using S = decltype(zero);
    const S* score = scores.const_data_ptr<S>();
    std::vector<Keyed<decltype(falling_key(zero))>> items;
    items.reserve(scores.numel());
    for (int64_t i = 0; i < scores.numel(); ++i) {
      const T* b = box + 4 * i;
      const bool has_nan = std::isnan(b[0]) || std::isnan(b[1]) || std::isnan(b[2]) ||
                           std::isnan(b[3]) || std::isnan(score[i]);
      if (!has_nan) items.push_back({falling_key(score[i]), i});
    }
    radix_sort(items);
    order.reserve(items.size());
    for (const auto& item : items) order.push_back(item.index);
  });
  return order;
}

// The same boxes group by group, and where each group starts.
std::vector<int64_t> by_group(const std::vector<int64_t>& order, const Tensor& groups_,
                              std::vector<int64_t>* first) {
  const auto groups = contiguous(to(groups_, ScalarType::Long));
  const auto* group = groups.const_data_ptr<int64_t>();
  std::vector<Keyed<uint64_t>> items;
  items.reserve(order.size());
  for (const int64_t i : order) items.push_back({rising_key(group[i]), i});
  radix_sort(items);
  std::vector<int64_t> sorted;
  sorted.reserve(items.size());
  for (size_t k = 0; k < items.size(); ++k) {
    if (k == 0 || items[k].key != items[k - 1].key) first->push_back(k);
    sorted.push_back(items[k].index);
  }
  first->push_back(items.size());
  return sorted;
}

// One group as a kernel wants it; kept from group to group, so that its memory is.
template <typename T>
class Group {
 public:
  // The positions in `order` of the boxes that stay.
  const std::vector<int64_t>& keep(const T* boxes, const int64_t* order, int64_t count, T threshold,
                                   int64_t max_keep) {
    constexpr int64_t step = Columns::kStep;
    const int64_t words = (count + step - 1) / step;
    columns_.assign(6 * words * step, 0);
    dead_.assign(words, 0);
    if (count % 64) dead_.back() = ~uint64_t(0) << count % 64;
    keep_.resize(count);
    const auto& kernel = simd::nms_kernels().of(T{});
    simd::BoxStrips<T> strips;
    const bool are_many = count >= kBoxesForStrips && count <= std::numeric_limits<int32_t>::max();
    if (are_many && find_strips(boxes, order, count, &strips)) {
      strips.boxes = fill(boxes, order, count, threshold, strips.place);
      keep_.resize(
          kernel.keep_of_strips(strips, count, threshold, max_keep, dead_.data(), keep_.data()));
    } else {
      const auto columns = fill(boxes, order, count, threshold, nullptr);
      keep_.resize(kernel.keep(columns, count, threshold, max_keep, dead_.data(), keep_.data()));
    }
    return keep_;
  }

 private:
  using Columns = simd::BoxColumns<T>;
  static constexpr int64_t kBoxesForStrips = 256;  // fewer are done sooner than strips are found

  // Box `order[k]` goes to place[k], or to k.
  Columns fill(const T* boxes, const int64_t* order, int64_t count, T threshold,
               const int32_t* place) {
    const int64_t stride = static_cast<int64_t>(columns_.size()) / 6;
    T* c = columns_.data();
    for (int64_t k = 0; k < count; ++k) {
      const NmsBox<T> box(boxes + 4 * order[k]);
      const T row[] = {box.x1, box.y1, box.x2, box.y2, box.area, share(box.area, threshold)};
      for (int64_t r = 0; r < 6; ++r) c[r * stride + (place ? place[k] : k)] = row[r];
    }
    return {c, c + stride, c + 2 * stride, c + 3 * stride, c + 4 * stride, c + 5 * stride};
  }

  // both / (a + b - both) > t where both > t / (1 + t) (a + b); 2^-20 less, for the roundings. What
  // is too small or negative for that, or NaN, never rules a pair out.
  static T share(T area, T threshold) {
    const T s = area * (threshold / (1 + threshold) * (1 - T(1) / (1 << 20)));
    return s >= std::numeric_limits<T>::min() ? s : -std::numeric_limits<T>::infinity();
  }

  // False where there is no telling the boxes apart by x: all alike, or one at infinity.
  bool find_strips(const T* boxes, const int64_t* order, int64_t count, simd::BoxStrips<T>* s) {
    T left = boxes[4 * order[0]], right = left;
    for (int64_t k = 1; k < count; ++k) {
      const T x = boxes[4 * order[k]];
      left = std::min(left, x), right = std::max(right, x);
    }
    s->count = static_cast<int32_t>(std::min<int64_t>(count / 4, 4096));
    s->left = left;
    s->per_unit = T(s->count) / (right - left);
    s->slack = 4 * std::numeric_limits<T>::epsilon() * std::max(std::abs(left), std::abs(right));
    if (!(right > left) || !std::isfinite(right - left) || !std::isfinite(s->per_unit))
      return false;
    first_.assign(s->count + 1, 0);
    place_.resize(count);
    for (int64_t k = 0; k < count; ++k) ++first_[s->first_of(boxes[4 * order[k]]) + 1];
    for (int32_t i = 0; i < s->count; ++i) first_[i + 1] += first_[i];
    next_ = first_;
    for (int64_t k = 0; k < count; ++k) place_[k] = next_[s->first_of(boxes[4 * order[k]])]++;
    s->place = place_.data(), s->first = first_.data();
    return true;
  }

  std::vector<T> columns_;
  std::vector<uint64_t> dead_;
  std::vector<int64_t> keep_;
  std::vector<int32_t> place_, first_, next_;
};

template <typename T>
std::vector<int64_t> keep_of_all(const Tensor& boxes, const Tensor& scores, T threshold,
                                 int64_t max_keep) {
  const auto order = by_score<T>(boxes, scores);
  Group<T> group;
  auto keep = group.keep(boxes.const_data_ptr<T>(), order.data(),
                         static_cast<int64_t>(order.size()), threshold, max_keep);
  for (int64_t& k : keep) k = order[k];
  return keep;
}

template <typename T>
std::vector<int64_t> keep_of_groups(const Tensor& boxes, const Tensor& scores, const Tensor& groups,
                                    T threshold, int64_t max_keep) {
  const auto order = by_score<T>(boxes, scores);
  std::vector<int64_t> first;
  const auto sorted = by_group(order, groups, &first);
  const auto num_groups = static_cast<int64_t>(first.size()) - 1;
  std::vector<char> is_kept(boxes.size(0), 0);  // char: threads write to neighbours
  const int64_t groups_per_thread =
      1 + num_groups * kBoxesPerThread / std::max<int64_t>(1, static_cast<int64_t>(order.size()));
  parallel_for(0, num_groups, groups_per_thread, [&](int64_t begin, int64_t end) {
    Group<T> group;
    for (int64_t g = begin; g < end; ++g) {
      const int64_t* members = sorted.data() + first[g];
      const int64_t count = first[g + 1] - first[g];
      if (count == 1) {
        is_kept[members[0]] = 1;
        continue;
      }
      for (const int64_t k :
           group.keep(boxes.const_data_ptr<T>(), members, count, threshold, max_keep))
        is_kept[members[k]] = 1;
    }
  });
  std::vector<int64_t> keep;
  for (const int64_t i : order) {
    if (static_cast<int64_t>(keep.size()) == max_keep) break;
    if (is_kept[i]) keep.push_back(i);
  }
  return keep;
}

std::vector<int64_t> keep_of(const Tensor& boxes_, const Tensor& scores, const Tensor* groups,
                             double iou_threshold, int64_t max_keep) {
  const auto boxes = contiguous(to(boxes_, compute_dtype(boxes_)));
  std::vector<int64_t> keep;
  with_compute_type(boxes, [&](auto zero) {
    using T = decltype(zero);
    const auto threshold = nms_threshold<T>(iou_threshold);
    keep = groups ? keep_of_groups<T>(boxes, scores, *groups, threshold, max_keep)
                  : keep_of_all<T>(boxes, scores, threshold, max_keep);
  });
  return keep;
}

Tensor as_tensor(const Tensor& like, const std::vector<int64_t>& values) {
  auto out = empty(like, {static_cast<int64_t>(values.size())}, ScalarType::Long);
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<int64_t>());
  return out;
}

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  return as_tensor(boxes, keep_of(boxes, scores, nullptr, iou_threshold, boxes.size(0)));
}

Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs,
                   double iou_threshold) {
  return as_tensor(boxes, keep_of(boxes, scores, &idxs, iou_threshold, boxes.size(0)));
}

std::tuple<Tensor, Tensor> batched_nms_fixed(const Tensor& boxes, const Tensor& scores,
                                             const Tensor& idxs, double iou_threshold,
                                             int64_t max_out) {
  auto kept = keep_of(boxes, scores, &idxs, iou_threshold, max_out);
  const auto count = static_cast<int64_t>(kept.size());
  auto valid = empty(boxes, {max_out}, ScalarType::Bool);
  for (int64_t k = 0; k < max_out; ++k) valid.mutable_data_ptr<bool>()[k] = k < count;
  kept.resize(max_out, 0);
  return {as_tensor(boxes, kept), valid};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) {
  m.impl("nms", TORCH_BOX(&nms));
  m.impl("batched_nms", TORCH_BOX(&batched_nms));
  m.impl("batched_nms_fixed", TORCH_BOX(&batched_nms_fixed));
}

}  // namespace dynamask
