#include "cpu/simd/edge_targets.h"

#include "cpu/simd/vec.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

template <typename T>
DYNAMASK_INLINE Vec<T> least(Vec<T> a, Vec<T> b) {
  return a < b ? a : b;
}

// Masks are one long row here, and rows of a mask `width` apart. What lies beyond the border of a
// mask is of another row or mask: `places` tells where that must not count.
template <typename T>
void edges(const T* masks, T* out, EdgeTargetsShape s, MaskBits bits, const EdgePlaces<T>& places) {
  constexpr int64_t step = kLanes<T>;
  const int64_t area = s.height * s.width, total = s.masks * area, reach = s.width + 1;
  const T magnitude = T(bits.magnitude), one = T(bits.one);
  const auto border = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = (masks[i] & magnitude) != 0 ? one : T(0);
  };
  if (total <= 2 * reach + step) {
    for (int64_t i = 0; i < total; ++i) {
      bool is_edge = (masks[i] & magnitude) != 0;
      if (is_edge && places.inside[i % area]) {
        is_edge = false;
        for (int64_t y = -s.width; y <= s.width; y += s.width)
          for (int64_t x = -1; x <= 1; ++x) is_edge |= (masks[i + y + x] & magnitude) == 0;
      }
      out[i] = is_edge ? one : T(0);
    }
    return;
  }
  border(0, reach);
  const int64_t last = total - reach - step;
  for (int64_t i = reach, place = reach % area;;) {
    const T* from = masks + i;
    const auto at = [&](int64_t offset) { return load(from + offset) & magnitude; };
    const auto row = [&](int64_t y) { return least<T>(least<T>(at(y - 1), at(y)), at(y + 1)); };
    const Vec<T> around = least<T>(least<T>(row(-s.width), row(0)), row(s.width));
    const Vec<T> all = around & load(places.inside + place);
    store<T>(out + i, (Vec<T>)(at(0) != 0) & (Vec<T>)(all == 0) & one);
    if (i == last) break;
    i += step, place += step;
    if (i > last) place -= i - last, i = last;
    while (place >= area) place -= area;
    while (place < 0) place += area;
  }
  border(total - reach, total);
}

// Backwards, as a store that a load overlaps in part is waited for. Even sites do not change.
template <typename T>
void add_coarse(T* out, EdgeTargetsShape s, const EdgePlaces<T>& places) {
  constexpr int64_t step = kLanes<T>;
  const int64_t area = s.height * s.width, total = s.masks * area, reach = s.width + 1;
  int64_t i = total - step;
  for (int64_t place = i < 0 ? 0 : i % area; i >= reach; i -= step, place -= step) {
    while (place < 0) place += area;
    const Vec<T> coarse = (load(out + i - 1) & load(places.left + place)) |
                          (load(out + i - s.width) & load(places.up + place)) |
                          (load(out + i - reach) & load(places.corner + place));
    store<T>(out + i, load(out + i) | coarse);
  }
  for (i += step - 1; i > 0; --i) {
    const int64_t place = i % area;
    T coarse = out[i - 1] & places.left[place];
    if (places.up[place]) coarse = out[i - s.width];
    if (places.corner[place]) coarse = out[i - reach];
    out[i] |= coarse;
  }
}

// Scratch of `blocks`, each with room to read and write whole vectors at its end: the mask as bytes
// of 0 and 1, later the blocks; and twice a plane with `width` zeros around it on all sides.
constexpr int64_t kRoom = 128;

int64_t padded_bytes(int64_t height, int64_t width) {
  return (height + 2 * kMaxBlockWidth) * (width + 2 * kMaxBlockWidth) + kRoom;
}

int64_t block_scratch(int64_t height, int64_t width) {
  return height * width + kRoom + 2 * padded_bytes(height, width);
}

DYNAMASK_INLINE void copy_row(const uint8_t* in, uint8_t* out, int64_t n) {
  for (int64_t x = 0; x < n; x += kVectorBytes) store(out + x, load(in + x));
}

// The sums of `count` elements each, `stride` apart, for n elements
void box_sum(const uint8_t* in, uint8_t* out, int64_t n, int count, int64_t stride) {
  for (int64_t i = 0; i < n; i += kVectorBytes) {
    Vec<uint8_t> sum = load(in + i);
    for (int k = 1; k < count; ++k) sum += load(in + i + k * stride);
    store(out + i, sum);
  }
}

template <typename T>
void blocks(const T* mask, uint8_t* out, int64_t height, int64_t width, MaskBits bits, Blocks b,
            uint8_t* scratch) {
  const int64_t area = height * width, stride = width + 2 * b.width;
  const T magnitude = T(bits.magnitude);
  uint8_t* bytes = scratch;
  uint8_t* padded = bytes + area + kRoom;
  uint8_t* sums = padded + padded_bytes(height, width);
  for (int64_t i = 0; i < area; ++i) bytes[i] = (mask[i] & magnitude) != 0;

  const int64_t top = b.width * stride, first = top + b.width;
  __builtin_memset(padded, 0, first);
  for (int64_t y = 0; y < height; ++y) {
    copy_row(bytes + y * width, padded + first + y * stride, width);
    __builtin_memset(padded + first + y * stride + width, 0, 8);  // 2 b.width of them stay
  }
  __builtin_memset(padded + top + height * stride, 0, top);

  const int count = 2 * b.width + 1;
  const int64_t rows = height * stride;  // of the padded plane, `width` columns and their padding
  box_sum(padded, sums, rows, count, stride);
  const Vec<uint8_t> middle = broadcast(uint8_t(b.least)), one = broadcast(uint8_t(1));
  for (int64_t i = 0; i < rows; i += kVectorBytes) {
    Vec<uint8_t> ones = load(sums + i);
    for (int k = 1; k < count; ++k) ones += load(sums + i + k);
    const Vec<uint8_t> f = load(padded + first + i);
    const auto near = (Vec<uint8_t>)(ones >= middle) & one;
    const auto deep = (Vec<uint8_t>)(ones > uint8_t(b.sites - b.least)) & one;
    store<uint8_t>(sums + i, (f | near) + (f & deep));
  }
  for (int64_t y = 0; y < height; ++y) copy_row(sums + y * stride, bytes + y * width, width);
  __builtin_memcpy(out, bytes, area);
}

template <typename T>
constexpr EdgeKernel<T> kernel() {
  return {&edges<T>, &add_coarse<T>, &blocks<T>};
}

}  // namespace

extern const EdgeKernels edge_kernels;
const EdgeKernels edge_kernels = {kernel<uint8_t>(), kernel<uint16_t>(), kernel<uint32_t>(),
                                  kernel<uint64_t>(), &block_scratch};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
