// The loop over boxes that all kinds of masks share.

#pragma once

#include <algorithm>

#include "cpu/tensor.h"
#include "ops/mask_targets.h"

namespace dynamask {

// Allocates the targets [R, S, S] of every size and lets workers, one per thread at a time, fill
// them: worker.start(g, box) for a row, then worker.fill(size, out) for each size. Rows of a box
// that is not finite or of an instance that does not exist are zero. T is the type of coordinates.
template <typename T, typename MakeWorker>
std::vector<Tensor> fill_targets(const Tensor& boxes_, const Tensor& index_, int64_t instances,
                                 const std::vector<int64_t>& sizes, MakeWorker&& make_worker) {
  constexpr int64_t kRoisPerTask = 4;
  const auto boxes =
      contiguous(to(boxes_, sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float));
  const auto index = contiguous(to(index_, ScalarType::Long));
  const int64_t rois = boxes.size(0);
  const T* all_boxes = boxes.const_data_ptr<T>();
  const auto* instance = index.const_data_ptr<int64_t>();
  std::vector<Tensor> targets;
  std::vector<uint8_t*> out;
  for (const int64_t size : sizes) {
    targets.push_back(empty(boxes, {rois, size, size}, ScalarType::Byte));
    out.push_back(targets.back().mutable_data_ptr<uint8_t>());
  }
  parallel_for(0, rois, kRoisPerTask, [&](int64_t begin, int64_t end) {
    auto worker = make_worker();
    for (int64_t r = begin; r < end; ++r) {
      const T* box = all_boxes + 4 * r;
      const int64_t g = instance[r];
      const bool exists = 0 <= g && g < instances && is_finite_box(box);
      if (exists) worker.start(g, box);
      for (size_t k = 0; k < sizes.size(); ++k) {
        const int64_t area = sizes[k] * sizes[k];
        if (exists) {
          worker.fill(int32_t(sizes[k]), out[k] + r * area);
        } else {
          std::fill_n(out[k] + r * area, area, 0);
        }
      }
    }
  });
  return targets;
}

}  // namespace dynamask
