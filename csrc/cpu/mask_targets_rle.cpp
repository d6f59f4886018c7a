#include <string_view>

#include "common/rle.h"
#include "cpu/mask_targets_coverage.h"
#include "cpu/mask_targets_rows.h"

namespace dynamask {
namespace {

struct RunLengthMask {
  Foreground foreground;
  int64_t height = 0, width = 0;
};

// The runs of an image column by column
Foreground columns_of(const rle::Runs& runs, int64_t height, int64_t width) {
  Foreground columns;
  columns.lines_are_columns = true;
  columns.starts.reserve(width + 1);
  columns.starts.push_back(0);
  const auto close_columns_before = [&](int64_t column) {
    while (int64_t(columns.starts.size()) <= column)
      columns.starts.push_back(int64_t(columns.bounds.size()));
  };
  int64_t start = 0;
  for (size_t i = 0; i < runs.size(); start += runs[i++]) {
    if (i % 2 == 0) continue;
    for (int64_t from = start, end = start + runs[i]; from < end;) {
      const int64_t column = from / height, to = std::min(end, (column + 1) * height);
      close_columns_before(column);
      columns.bounds.push_back(int32_t(from - column * height));
      columns.bounds.push_back(int32_t(to - column * height));
      from = to;
    }
  }
  close_columns_before(width);
  return columns;
}

RunLengthMask parse(std::string_view counts, int64_t height, int64_t width) {
  try {
    const auto runs = rle::from_string(counts, rle::pixels_of(height, width));
    return {columns_of(runs, height, width), height, width};
  } catch (const std::invalid_argument& error) {
    STD_TORCH_CHECK(false, "mask_targets: ", error.what());
  }
}

class RunLengthCropper {
 public:
  explicit RunLengthCropper(const std::vector<RunLengthMask>& masks) : masks_(masks) {}

  void start(int64_t g, const float* box) {
    mask_ = &masks_[g];
    box_ = box;
  }

  void fill(int32_t size, uint8_t* out) {
    make_target_(mask_->foreground, sampled_axis(box_[1], box_[3], size, mask_->height),
                 sampled_axis(box_[0], box_[2], size, mask_->width), out);
  }

 private:
  const std::vector<RunLengthMask>& masks_;
  const RunLengthMask* mask_ = nullptr;
  const float* box_ = nullptr;
  CoverageTargets make_target_;
};

std::vector<Tensor> mask_targets_rle(const Tensor& counts_, const Tensor& starts_,
                                     const Tensor& image_sizes_, const Tensor& boxes,
                                     const Tensor& index, std::vector<int64_t> sizes) {
  const auto counts = contiguous(to(counts_, ScalarType::Byte));
  const auto starts = contiguous(to(starts_, ScalarType::Long));
  const auto image_sizes = contiguous(to(image_sizes_, ScalarType::Long));
  const int64_t instances = starts.size(0) - 1, bytes = counts.size(0);
  const auto* text = reinterpret_cast<const char*>(counts.const_data_ptr<uint8_t>());
  const auto* start = starts.const_data_ptr<int64_t>();
  const auto* size = image_sizes.const_data_ptr<int64_t>();
  STD_TORCH_CHECK(image_sizes.size(0) == instances, "mask_targets: expected ", instances,
                  " image sizes, got ", image_sizes.size(0));
  std::vector<RunLengthMask> masks(instances);
  for (int64_t g = 0; g < instances; ++g) {
    const int64_t begin = std::clamp<int64_t>(start[g], 0, bytes);
    const int64_t end = std::clamp<int64_t>(start[g + 1], begin, bytes);
    masks[g] = parse({text + begin, size_t(end - begin)}, size[2 * g], size[2 * g + 1]);
  }
  return fill_targets<float>(boxes, index, instances, sizes,
                             [&] { return RunLengthCropper(masks); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) {
  m.impl("mask_targets_rle", TORCH_BOX(&mask_targets_rle));
}

}  // namespace dynamask
