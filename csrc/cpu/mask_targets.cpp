#include <algorithm>

#include "cpu/mask_targets_coverage.h"
#include "cpu/mask_targets_rows.h"

namespace dynamask {
namespace {

struct Bitmasks {
  const uint8_t* pixels;
  int64_t instances, height, width;
  int64_t instance_stride, row_stride;
};

struct Range {
  int64_t begin, end;
};

// The pixels of an axis that samples between two coordinates can touch, with room for rounding
Range touched(double low, double high, int64_t length) {
  const double room = 4 + (high - low) * 1e-6;
  return {int64_t(limited(low - room, length)), int64_t(limited(high + room, length))};
}

class BitmaskCropper {
 public:
  explicit BitmaskCropper(const Bitmasks& masks) : masks_(masks) {}

  // Finds the runs of the rows near the box.
  void start(int64_t g, const float* box) {
    box_ = box;
    const auto columns = touched(box[0], box[2], masks_.width);
    const auto rows = touched(box[1], box[3], masks_.height);
    const int64_t most = std::max<int64_t>(0, columns.end - columns.begin) + 1;
    foreground_.first_line = int32_t(rows.begin);
    foreground_.starts.assign(1, 0);
    int64_t count = 0;
    for (int64_t y = rows.begin; y < rows.end; ++y) {
      if (int64_t(foreground_.bounds.size()) < count + most)
        foreground_.bounds.resize(2 * (count + most));
      const uint8_t* row = masks_.pixels + g * masks_.instance_stride + y * masks_.row_stride;
      count += simd::coverage_kernels().find_bounds(row, columns.begin, columns.end,
                                                    foreground_.bounds.data() + count);
      foreground_.starts.push_back(count);
    }
  }

  void fill(int32_t size, uint8_t* out) {
    make_target_(foreground_, sampled_axis(box_[1], box_[3], size, masks_.height),
                 sampled_axis(box_[0], box_[2], size, masks_.width), out);
  }

 private:
  const Bitmasks& masks_;
  const float* box_ = nullptr;
  Foreground foreground_;
  CoverageTargets make_target_;
};

std::vector<Tensor> mask_targets(const Tensor& masks_, const Tensor& boxes, const Tensor& index,
                                 std::vector<int64_t> sizes) {
  const auto masks = masks_.stride(2) == 1 || masks_.size(2) <= 1 ? masks_ : contiguous(masks_);
  const Bitmasks bitmasks{static_cast<const uint8_t*>(masks.const_data_ptr()),
                          masks.size(0),
                          masks.size(1),
                          masks.size(2),
                          masks.stride(0),
                          masks.stride(1)};
  return fill_targets<float>(boxes, index, bitmasks.instances, sizes,
                             [&] { return BitmaskCropper(bitmasks); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) { m.impl("mask_targets", TORCH_BOX(&mask_targets)); }

}  // namespace dynamask
