// The rows of A_y and A_x (ops/roi_align.h) of one RoI, or of their transposes, as lists of taps.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/roi_samples.h"
#include "cpu/simd/roi_align.h"

namespace dynamask {

// Kept from RoI to RoI, so that its memory is.
template <typename T>
class RoiTaps {
 public:
  // Which pixels make up each bin. Their number is at most about the length of the map plus three
  // per bin, however large the box.
  void pixels_of_bins(const RoiAxis<T>& axis, int64_t pixel_stride, int64_t bin_stride) {
    clear();
    const T average = T(1) / T(axis.grid);
    for (int64_t bin = 0; bin < axis.bins; ++bin) {
      const auto taps = static_cast<int64_t>(weight_.size());
      for (int64_t i = axis.first_inside(bin); i < axis.grid; ++i) {
        const T position = axis.position(bin, i);
        if (axis.bin_size >= 0 && position > T(axis.length)) break;
        const auto sample = roi_sample(position, axis.length);
        if (!sample.is_inside) continue;
        add(taps, sample.low, sample.weight_low);
        if (sample.weight_high > 0) add(taps, sample.high, sample.weight_high);
      }
      for (size_t t = taps; t < weight_.size(); ++t) weight_[t] *= average;
      place_.push_back(bin * bin_stride);
      first_.push_back(weight_.size());
    }
    if (!pixel_.empty()) {
      const auto [low, high] = std::minmax_element(pixel_.begin(), pixel_.end());
      begin_ = *low, end_ = *high + 1;
    }
    for (const int64_t pixel : pixel_) offset_.push_back(pixel * pixel_stride);
  }

  // Which bins each pixel went into, for the pixels that went into any: the transpose of `taps`.
  void bins_of_pixels(const RoiTaps& taps, int64_t pixel_stride, int64_t bin_stride) {
    clear();
    next_.assign(taps.end_ - taps.begin_, 0);
    for (const int64_t pixel : taps.pixel_) ++next_[pixel - taps.begin_];
    for (int64_t pixel = taps.begin_; pixel < taps.end_; ++pixel) {
      int64_t& next = next_[pixel - taps.begin_];
      if (next == 0) continue;
      const int64_t here = first_.back();
      first_.push_back(here + next);
      place_.push_back(pixel * pixel_stride);
      next = here;
    }
    offset_.resize(first_.back());
    weight_.resize(first_.back());
    const auto bins = static_cast<int64_t>(taps.place_.size());
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (int64_t t = taps.first_[bin]; t < taps.first_[bin + 1]; ++t) {
        const int64_t to = next_[taps.pixel_[t] - taps.begin_]++;
        offset_[to] = bin * bin_stride;
        weight_[to] = taps.weight_[t];
      }
    }
    end_ = bins;
  }

  bool empty() const { return weight_.empty(); }

  simd::TapAxis<T> view() const {
    return {static_cast<int64_t>(place_.size()),
            first_.data(),
            offset_.data(),
            weight_.data(),
            place_.data(),
            begin_,
            end_ - begin_};
  }

 private:
  void clear() {
    first_.assign(1, 0);
    for (auto* list : {&pixel_, &offset_, &place_}) list->clear();
    weight_.clear();
    begin_ = end_ = 0;
  }

  // Samples of a bin are in order, so a pixel that has a tap already is among the last three.
  void add(int64_t taps_of_bin, int64_t pixel, T weight) {
    const auto size = static_cast<int64_t>(pixel_.size());
    for (int64_t t = size - 1; t >= std::max(taps_of_bin, size - 3); --t) {
      if (pixel_[t] == pixel) {
        weight_[t] += weight;
        return;
      }
    }
    pixel_.push_back(pixel);
    weight_.push_back(weight);
  }

  std::vector<int64_t> first_, pixel_, offset_, place_, next_;
  std::vector<T> weight_;
  int64_t begin_ = 0, end_ = 0;  // of the pixels, or of the bins in a transpose
};

}  // namespace dynamask
