#include "ops/encode_masks.h"

#include "common/rle.h"
#include "cpu/paste_masks.h"

namespace dynamask {
namespace {

// The runs of one image, given the places where the foreground begins and ends, in order.
class RunEncoder {
 public:
  explicit RunEncoder(int64_t pixels) : pixels_(pixels) {}

  void add(int64_t place) {
    // a column may be foreground to its end as the next begins: then nothing changes there
    if (!places_.empty() && places_.back() == place) {
      places_.pop_back();
    } else {
      places_.push_back(place);
    }
  }

  std::string finish() {
    std::string text;
    text.reserve(2 * places_.size() + 8);
    if (!places_.empty() && places_.back() == pixels_) places_.pop_back();
    places_.push_back(pixels_);
    int64_t start = 0, run = 0, before = 0;
    for (size_t i = 0; i < places_.size(); ++i) {
      const int64_t two_before = before;
      before = run;
      run = places_[i] - start;
      start = places_[i];
      rle::append_number(text, i > 2 ? run - two_before : run);
    }
    places_.clear();
    return text;
  }

 private:
  int64_t pixels_;
  std::vector<int64_t> places_;
};

std::tuple<Tensor, Tensor> encode_masks(const Tensor& values, const Tensor& sizes,
                                        const Tensor& boxes, int64_t height, int64_t width,
                                        double threshold, std::string mode_name) {
  const auto mode = paste_mode(mode_name);
  const PasteMasks masks(values, sizes, boxes);
  std::vector<std::string> texts(masks.count());
  parallel_for(0, masks.count(), 1, [&](int64_t begin, int64_t end) {
    MaskPaster paster(mode, threshold, height, width, /*columns=*/true);
    RunEncoder encoder(height * width);
    for (int64_t n = begin; n < end; ++n) {
      paster.paste(masks.mask(n), masks.size[n], masks.box(n),
                   [&](int64_t x, int64_t y, const int32_t* at, int64_t count) {
                     const int64_t column = column_major(x, y, height);
                     for (int64_t i = 0; i < count; ++i) encoder.add(column + at[i]);
                   });
      texts[n] = encoder.finish();
    }
  });

  auto offsets = empty(boxes, {masks.count() + 1}, ScalarType::Long);
  auto* offset = offsets.mutable_data_ptr<int64_t>();
  offset[0] = 0;
  for (int64_t n = 0; n < masks.count(); ++n)
    offset[n + 1] = offset[n] + static_cast<int64_t>(texts[n].size());
  auto bytes = empty(boxes, {offset[masks.count()]}, ScalarType::Byte);
  auto* out = bytes.mutable_data_ptr<uint8_t>();
  for (int64_t n = 0; n < masks.count(); ++n)
    std::memcpy(out + offset[n], texts[n].data(), texts[n].size());
  return {bytes, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) { m.impl("encode_masks", TORCH_BOX(&encode_masks)); }

}  // namespace dynamask
