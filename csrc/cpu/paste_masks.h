// Pasting one mask after the other, line by line: what paste_masks and encode_masks share.

#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "cpu/simd/paste_masks.h"
#include "cpu/tensor.h"

namespace dynamask {

inline PasteMode paste_mode(const std::string& name) {
  STD_TORCH_CHECK(name == "detectron2" || name == "torchvision",
                  "paste_masks: expected mode detectron2 or torchvision, got ", name);
  return name == "detectron2" ? PasteMode::detectron2 : PasteMode::torchvision;
}

// Ragged masks and their boxes in the form kernels read.
struct PasteMasks {
  Tensor values, boxes;               // fp32, contiguous
  std::vector<int64_t> size, offset;  // of each mask

  PasteMasks(const Tensor& values_, const Tensor& sizes_, const Tensor& boxes_)
      : values(contiguous(to(values_, ScalarType::Float))),
        boxes(contiguous(to(boxes_, ScalarType::Float))) {
    const auto sizes = contiguous(to(sizes_, ScalarType::Long));
    const auto* s = sizes.const_data_ptr<int64_t>();
    int64_t end = 0;
    for (int64_t n = 0; n < sizes.numel(); ++n) {
      STD_TORCH_CHECK(0 <= s[n] && s[n] < (int64_t{1} << 30) && s[n] * s[n] <= values.numel() - end,
                      "paste_masks: expected sizes of at most ", values.numel(),
                      " values together, got ", s[n], " in row ", n);
      size.push_back(s[n]);
      offset.push_back(end);
      end += s[n] * s[n];
    }
    STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(0) == count() && boxes.size(1) == 4,
                    "paste_masks: expected boxes [N, 4] for ", count(), " masks");
  }

  int64_t count() const { return static_cast<int64_t>(size.size()); }
  const float* mask(int64_t n) const { return values.const_data_ptr<float>() + offset[n]; }
  const float* box(int64_t n) const { return boxes.const_data_ptr<float>() + 4 * n; }
};

// Pastes masks into one image with memory that is allocated once. One per thread.
class MaskPaster {
 public:
  // Lines are the columns of the image, or its rows.
  MaskPaster(PasteMode mode, double threshold, int64_t height, int64_t width, bool columns)
      : mode_(mode), height_(static_cast<int32_t>(height)), width_(static_cast<int32_t>(width)) {
    lines_.columns = columns;
    lines_.threshold = static_cast<float>(threshold);
  }

  // Calls f(line, first_pixel, at, count): between pixels first_pixel + at[0] and + at[1] the line
  // is foreground, and so on in pairs. Lines without foreground are left out.
  template <typename F>
  void paste(const float* mask, int64_t size, const float* box, F&& f) {
    const PasteBox place = paste_box(mode_, box, size, height_, width_);
    if (place.empty()) return;
    Axis& x = lines_.columns ? across_ : along_;
    Axis& y = lines_.columns ? along_ : across_;
    if (!x.tabulate(kernels_, place.x, size) || !y.tabulate(kernels_, place.y, size)) return;
    load(mask, size, place.order, lines_.columns ? place.y : place.x);
    for (int32_t i = 0; i < across_.count; ++i) {
      const PasteSample s = across_.at(i);
      const int64_t count = kernels_.changes(lines_, s.cell, s.before, s.after, at_.data());
      if (count > 0) f(across_.first + i, along_.first, at_.data(), count);
    }
  }

 private:
  // The table of one axis, without the pixels at both ends that read zero.
  struct Axis {
    bool tabulate(const simd::PasteMasksKernels& kernels, const PasteAxis& axis, int64_t size) {
      const int64_t pixels = axis.end - axis.begin;
      cell.resize(pixels), before.resize(pixels), after.resize(pixels);
      kernels.tabulate(axis, static_cast<int32_t>(size),
                       {cell.data(), before.data(), after.data()});
      int32_t begin = 0, end = axis.end - axis.begin;
      while (begin < end && cell[begin] < 0) ++begin;
      while (begin < end && cell[end - 1] < 0) --end;
      skipped = begin, first = axis.begin + begin, count = end - begin;
      return count > 0;
    }

    simd::PasteTable table() {
      return {cell.data() + skipped, before.data() + skipped, after.data() + skipped};
    }

    PasteSample at(int32_t i) const {
      return {cell[skipped + i], before[skipped + i], after[skipped + i]};
    }

    std::vector<int32_t> cell;
    std::vector<float> before, after;
    int32_t skipped = 0, first = 0, count = 0;
  };

  void load(const float* mask, int64_t size, SumOrder order, const PasteAxis& along) {
    constexpr int64_t kRoom = 16;            // a vector may be read from the last sample on
    lines_.stride = (size + 2 + 3) / 4 * 4;  // not more: powers of two share cache lines
    samples_.resize((size + 2) * lines_.stride + kRoom);
    values_.resize(size + 2 + 2 * kRoom);
    const float largest = kernels_.pad(mask, size, lines_.columns, samples_.data(), lines_.stride);
    lines_.samples = samples_.data();
    lines_.values = values_.data();
    lines_.order = order;
    // some twenty roundings of the largest number at most; of numbers that could overflow, none
    // can be told without computing it
    lines_.doubt = largest < 1e30f ? 32 * std::numeric_limits<float>::epsilon() * largest
                                   : std::numeric_limits<float>::infinity();

    lines_.table = along_.table();
    lines_.pixels = along_.count;
    const int32_t* cell = lines_.table.cell;
    first_pixel_.resize(size + 3);
    int32_t next = cell[0];
    for (int32_t i = 0; i < along_.count; ++i)
      while (next <= cell[i]) first_pixel_[next++] = i;
    first_pixel_[next] = along_.count;
    at_.resize(along_.count + 1);
    lines_.first_pixel = first_pixel_.data();
    lines_.pixels_per_cell = along.grid ? along.extent / static_cast<float>(size) : 1 / along.scale;
  }

  const simd::PasteMasksKernels& kernels_ = simd::paste_masks_kernels();
  PasteMode mode_;
  int32_t height_, width_;
  Axis across_, along_;
  std::vector<float> samples_, values_;
  std::vector<int32_t> first_pixel_, at_;
  simd::PasteLines lines_{};
};

}  // namespace dynamask
