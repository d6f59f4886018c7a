// Run-length masks on the device: their strings are parsed once per call into the places where runs
// end, which the kernel of mask_targets then searches. No image is ever decoded.

#pragma once

#include "cuda/target_bins.h"

namespace dynamask::cuda {

// A mask as lines, which are its columns: runs go down the columns, one after the other.
struct RunLines {
  static constexpr bool kAreColumns = true;
  const int32_t* ends;  // of each run, among the pixels column by column
  int32_t runs;
  int64_t height, width;

  struct Line {
    const int32_t* ends;
    int32_t runs, run;  // the run at the last place asked for; the odd ones are foreground
    int64_t start;
    DYNAMASK_HOST_DEVICE float at(int64_t place) {
      while (run < runs && ends[run] <= start + place) ++run;
      return run % 2;
    }
    DYNAMASK_HOST_DEVICE uint32_t bits(int32_t place, int count) {
      uint32_t found = 0;
      for (int i = 0; i < count; ++i) found |= (at(place + i) > 0 ? 1u : 0u) << i;
      return found;
    }
  };
  DYNAMASK_HOST_DEVICE Line line(int64_t column) const {
    const int64_t start = column * height;
    int32_t low = 0, high = runs;  // search the first run that ends after the start
    while (low < high) {
      const int32_t middle = low + (high - low) / 2;
      if (ends[middle] <= start)
        low = middle + 1;
      else
        high = middle;
    }
    return {ends, runs, low, start};
  }
};

// Strings as Python has checked them; wrong ones give some target and lead nowhere.
struct RunMasks {
  const uint8_t* text;         // all strings, one after the other
  const int64_t* starts;       // [G + 1]: of each string
  const int64_t* image_sizes;  // [G, 2]
  int64_t bytes, instances;
  int32_t*
      ends;  // [bytes]: of the runs of a string, from its start on, for each has a byte or more
  int32_t* runs;  // [G]: how many they are

  DYNAMASK_HOST_DEVICE int64_t start(int64_t g) const { return limit(starts[g], bytes); }

  DYNAMASK_HOST_DEVICE RunLines of(int64_t g) const {
    constexpr int64_t kMost = INT32_MAX;
    if (g >= instances) return {ends, 0, 0, 0};
    const int64_t height = limit(image_sizes[2 * g], kMost);
    const int64_t width = limit(image_sizes[2 * g + 1], kMost);
    if (height == 0 || width > kMost / height) return {ends, 0, 0, 0};
    return {ends + start(g), runs[g], height, width};
  }

 private:
  DYNAMASK_HOST_DEVICE static int64_t limit(int64_t i, int64_t most) {
    return i < 0 ? 0 : i < most ? i : most;
  }
};

// The sum of this lane and all before it.
static __device__ int64_t sum_up_to(int64_t x) {
  for (int by = 1; by < 32; by *= 2) {
    const int64_t before = __shfl_up_sync(~0u, x, by);
    if (static_cast<int>(threadIdx.x) >= by) x += before;
  }
  return x;
}

// A number may take seven groups of five bits, lowest first; returns the one whose last byte this
// is. Bit 5 of a byte less 48 says that more follow, bit 4 of the last is the sign.
DYNAMASK_HOST_DEVICE int64_t number_that_ends(const uint8_t* text, int64_t first, int64_t last) {
  int64_t begin = last;
  while (begin > first && last - begin < 6 && (text[begin - 1] - 48 & 32)) --begin;
  uint64_t x = 0;
  for (int64_t i = last; i >= begin; --i) x = x << 5 | (text[i] - 48 & 31);
  const int bits = 5 * static_cast<int>(last - begin + 1);
  if (x >> (bits - 1) & 1) x |= ~uint64_t{0} << bits;
  return static_cast<int64_t>(x);
}

// A warp owns a mask and a lane a byte of 32: the lane of the last byte of a number writes where
// that run ends. From the fourth number on a number is the difference to the run two before, so
// runs are sums of every other number. Bound by latency: some 200 instructions per 32 bytes.
static __global__ void mask_targets_rle_ends_kernel(const __grid_constant__ RunMasks masks) {
  const int64_t g = blockIdx.x;
  const int lane = threadIdx.x;
  const int64_t begin = masks.start(g), end = masks.start(g + 1);
  int64_t count = 0, even = 0, odd = 0, place = 0;  // of the runs before these 32 bytes
  for (int64_t first = begin; first < end; first += 32) {
    const int64_t i = first + lane;
    const bool is_last = i < end && !(masks.text[i] - 48 & 32);
    const unsigned lasts = __ballot_sync(~0u, is_last);
    const int64_t index = count + __popc(lasts & ((1u << lane) - 1));
    const int64_t number = is_last ? number_that_ends(masks.text, begin, i) : 0;
    const bool is_odd = index % 2 == 1;
    const int64_t odds = odd + sum_up_to(is_odd ? number : 0);
    const int64_t evens = even + sum_up_to(is_odd || index == 0 ? 0 : number);
    int64_t run = index == 0 ? number : is_odd ? odds : evens;
    run = !is_last || run < 0 ? 0 : run < INT32_MAX ? run : INT32_MAX;
    const int64_t run_end = place + sum_up_to(run);
    if (is_last) masks.ends[begin + index] = run_end < INT32_MAX ? run_end : INT32_MAX;
    count += __popc(lasts);
    odd = __shfl_sync(~0u, odds, 31), even = __shfl_sync(~0u, evens, 31);
    place = __shfl_sync(~0u, run_end, 31);
  }
  if (lane == 0) masks.runs[g] = static_cast<int32_t>(count);
}

inline void mask_targets_rle(Stream stream, const TargetBoxes<float>& a, const RunMasks& masks) {
  if (masks.instances > 0) launch(stream, masks.instances, 32, mask_targets_rle_ends_kernel, masks);
  mask_targets(stream, a, masks);
}

}  // namespace dynamask::cuda
