// The kernels of encode_masks. Only the compressed strings are ever made: two passes over the
// columns of the boxes find the places where the foreground begins and ends, the first to count
// them, and a third pass writes the differences of neighbouring places as text.

#pragma once

#include "cuda/pasted_mask.h"
#include "ops/encode_masks.h"

namespace dynamask::cuda {

constexpr int kWarp = 32;
constexpr int kEncodeThreads = 128;

// Whether the last pixel of the column before x is foreground, so that in COCO's order the
// foreground goes on into column x.
DYNAMASK_HOST_DEVICE bool column_before_ends_inside(const PastedMask& mask, int32_t x,
                                                    int32_t height) {
  if (x == mask.place.x.begin || mask.place.y.end < height) return false;
  return mask.covers(mask.at_x(x - 1), mask.at_y(height - 1));
}

// Calls put(place, rank) for every place of column x where the foreground begins or ends, ranks
// counting from 0, and returns how many there are. A foreground that reaches the bottom goes on at
// the top of the next column, which says whether it ends there; the end of the image is no place.
// All lanes of a warp call it; a lane owns every 32nd row.
template <typename Put>
__device__ int for_each_change(const PastedMask& mask, int32_t x, int32_t height, int32_t width,
                               Put put) {
  const PasteAxis &rows = mask.place.y, &columns = mask.place.x;
  const PasteSample column = mask.at_x(x);
  const int lane = threadIdx.x % kWarp;
  bool inside = column_before_ends_inside(mask, x, height);
  int count = 0;
  if (inside && rows.begin > 0) {
    if (lane == 0) put(column_major(x, 0, height), 0);
    inside = false;
    count = 1;
  }
  for (int32_t first = rows.begin; first < rows.end; first += kWarp) {
    const int32_t here = rows.end - first < kWarp ? rows.end - first : kWarp;
    const unsigned on =
        __ballot_sync(~0u, lane < here && mask.covers(column, mask.at_y(first + lane)));
    unsigned changes = on ^ (on << 1 | (inside ? 1u : 0u));  // bit i: not as the pixel before it
    if (here < kWarp) changes &= (1u << here) - 1;
    if (changes >> lane & 1)
      put(column_major(x, first + lane, height), count + __popc(changes & ((1u << lane) - 1)));
    count += __popc(changes);
    inside = on >> (here - 1) & 1;
  }
  const bool goes_on = rows.end == height && (x + 1 < columns.end || x + 1 == width);
  if (inside && !goes_on) {
    if (lane == 0) put(column_major(x, rows.end, height), count);
    ++count;
  }
  return count;
}

// How many counts there are of each mask: one per column, and one of an image without columns.
DYNAMASK_HOST_DEVICE int64_t counts_of_mask(int64_t width) { return width > 0 ? width : 1; }

// A warp owns some columns of one mask's box. Bound by arithmetic: some 40 operations per pixel.
// counts[n, x] is how many places column x has; the other columns are zeros already.
static __global__ void encode_masks_count_kernel(PasteMasks masks, int64_t* counts) {
  const int64_t n = blockIdx.x;
  const PastedMask mask(masks, n);
  const int32_t warp = blockIdx.y * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  const int32_t warps = gridDim.y * (blockDim.x / kWarp);
  for (int32_t x = mask.place.x.begin + warp; x < mask.place.x.end; x += warps) {
    const int count = for_each_change(mask, x, masks.height, masks.width, [](int64_t, int64_t) {});
    if (threadIdx.x % kWarp == 0) counts[n * counts_of_mask(masks.width) + x] = count;
  }
}

// The same again, writing: a warp owns the same columns, and is bound by the same arithmetic.
// `ends` is the running sum of the counts: all masks' places lie one after the other, and after
// those of each mask the number of pixels, the end of its last run.
static __global__ void encode_masks_places_kernel(PasteMasks masks, const int64_t* counts,
                                                  const int64_t* ends, int64_t* places) {
  const int64_t n = blockIdx.x;
  const PastedMask mask(masks, n);
  const int32_t warp = blockIdx.y * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  const int32_t warps = gridDim.y * (blockDim.x / kWarp);
  for (int32_t x = mask.place.x.begin + warp; x < mask.place.x.end; x += warps) {
    const int64_t i = n * counts_of_mask(masks.width) + x;
    int64_t* out = places + n + ends[i] - counts[i];
    for_each_change(mask, x, masks.height, masks.width,
                    [&](int64_t place, int64_t rank) { out[rank] = place; });
  }
  if (warp == 0 && threadIdx.x == 0)
    places[n + ends[(n + 1) * counts_of_mask(masks.width) - 1]] =
        int64_t{masks.height} * masks.width;
}

// One number of a compressed string.
struct RunText {
  int64_t number;

  // Of the i-th run of a mask whose places start at `places`: its length, from the fourth on less
  // that of the run two before.
  DYNAMASK_HOST_DEVICE RunText(const int64_t* places, int64_t i)
      : number(run(places, i) - (i > 2 ? run(places, i - 2) : 0)) {}

  // Calls put(index, character) and returns how many there are.
  template <typename Put>
  DYNAMASK_HOST_DEVICE int write(Put put) const {
    int64_t x = number;
    for (int k = 0;; ++k) {
      const int group = static_cast<int>(x & 31);
      x >>= 5;
      const bool last = (group & 16) ? x == -1 : x == 0;
      put(k, static_cast<uint8_t>(48 + (last ? group : group | 32)));
      if (last) return k + 1;
    }
  }

 private:
  DYNAMASK_HOST_DEVICE static int64_t run(const int64_t* places, int64_t i) {
    return i == 0 ? places[0] : places[i] - places[i - 1];
  }
};

// Calls f(k, text) for every run of mask n, k counting over all masks. A block owns a mask.
template <typename F>
__device__ void for_each_run(const int64_t* ends, int64_t width, const int64_t* places, F f) {
  const int64_t n = blockIdx.x, columns = counts_of_mask(width);
  const int64_t first = n == 0 ? 0 : n + ends[n * columns - 1];
  const int64_t last = n + ends[(n + 1) * columns - 1];
  for (int64_t k = first + threadIdx.x; k <= last; k += blockDim.x)
    f(k, RunText(places + first, k - first));
}

// A thread owns every 128th run of a mask: how many characters it takes. Bound by memory.
static __global__ void encode_masks_lengths_kernel(const int64_t* ends, int64_t width,
                                                   const int64_t* places, int64_t* lengths) {
  for_each_run(ends, width, places, [&](int64_t k, const RunText& text) {
    lengths[k] = text.write([](int, uint8_t) {});
  });
}

// The same again, writing: a thread owns the same runs. Bound by memory. `text_ends` is the running
// sum of the lengths; offsets[n + 1] is where
// the string of mask n ends.
static __global__ void encode_masks_text_kernel(const int64_t* ends, int64_t width,
                                                const int64_t* places, const int64_t* lengths,
                                                const int64_t* text_ends, uint8_t* bytes,
                                                int64_t* offsets) {
  for_each_run(ends, width, places, [&](int64_t k, const RunText& text) {
    uint8_t* out = bytes + text_ends[k] - lengths[k];
    text.write([&](int i, uint8_t character) { out[i] = character; });
  });
  const int64_t n = blockIdx.x;
  if (threadIdx.x != 0) return;
  offsets[n + 1] = text_ends[n + ends[(n + 1) * counts_of_mask(width) - 1]];
  if (n == 0) offsets[0] = 0;
}

// The two passes before the places are known in number, and those after; between them the running
// sums are made.
inline void encode_masks_count(Stream stream, const PasteMasks& masks, int64_t* counts) {
  const dim3 grid(masks.count, kBlocksPerMask);
  launch(stream, grid, kEncodeThreads, encode_masks_count_kernel, masks, counts);
}

inline void encode_masks_places(Stream stream, const PasteMasks& masks, const int64_t* counts,
                                const int64_t* ends, int64_t* places, int64_t* lengths) {
  const dim3 grid(masks.count, kBlocksPerMask);
  launch(stream, grid, kEncodeThreads, encode_masks_places_kernel, masks, counts, ends, places);
  launch(stream, masks.count, kEncodeThreads, encode_masks_lengths_kernel, ends,
         int64_t{masks.width}, places, lengths);
}

inline void encode_masks_text(Stream stream, const PasteMasks& masks, const int64_t* ends,
                              const int64_t* places, const int64_t* lengths,
                              const int64_t* text_ends, uint8_t* bytes, int64_t* offsets) {
  launch(stream, masks.count, kEncodeThreads, encode_masks_text_kernel, ends, int64_t{masks.width},
         places, lengths, text_ends, bytes, offsets);
}

}  // namespace dynamask::cuda
