// The kernels of nms, and their order, on plain pointers.
//
// Boxes are compared in the order of their scores, stripe by stripe of rows: memory grows with N
// alone. Nothing waits for the host.

#pragma once

#include "cuda/launch.h"
#include "ops/nms.h"

namespace dynamask::cuda {

constexpr int kWord = 64;                // boxes per word of bits
constexpr int64_t kStripe = 64 * kWord;  // rows compared at a time
constexpr int kSweepThreads = 512;

// What NMS reads and writes; all arrays are on the device.
template <typename T>
struct Nms {
  const T* boxes;          // [N, 4]
  const int64_t* groups;   // [N], or nullptr: all in one
  const int64_t* order;    // [N]: by falling key
  const uint8_t* dropped;  // [N]: NaN somewhere, never kept
  int64_t count;           // N
  T threshold;
  int64_t max_keep;
  uint64_t* overlaps;  // [kStripe, words()]: which later boxes a row drops
  uint64_t* removed;   // [words()]
  int64_t* keep;       // [max_keep]
  int64_t* kept;       // [1]: how many

  DYNAMASK_HOST_DEVICE int64_t words() const { return (count + kWord - 1) / kWord; }
};

// A thread owns a box: what it is sorted by, and whether it can be kept. Bound by memory.
template <typename T, typename Score>
__global__ void nms_keys(const T* boxes, const Score* scores, int64_t count, Score* keys,
                         uint8_t* dropped) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const T* b = boxes + 4 * i;
  const Score score = scores[i];
  dropped[i] = b[0] != b[0] || b[1] != b[1] || b[2] != b[2] || b[3] != b[3] || score != score;
  keys[i] = score + Score(0);  // -0 sorts as 0
}

// A block owns 64 rows and one word of columns, a thread one row; once enough boxes are kept,
// nobody looks at later rows. Bound by arithmetic: about 15 operations per pair.
template <typename T>
__global__ void nms_overlaps(Nms<T> a, int64_t first_row) {
  __shared__ T column_boxes[kWord][4];
  __shared__ int64_t column_groups[kWord];
  if (*a.kept >= a.max_keep) return;
  const int t = threadIdx.x;
  const int64_t row = first_row + static_cast<int64_t>(blockIdx.y) * kWord + t;
  const int64_t word = first_row / kWord + blockIdx.x;
  const int64_t column = word * kWord + t;
  if (column < a.count) {
    const int64_t box = a.order[column];
    for (int i = 0; i < 4; ++i) column_boxes[t][i] = a.boxes[4 * box + i];
    column_groups[t] = a.groups ? a.groups[box] : 0;
  }
  __syncthreads();
  if (row >= a.count || word < row / kWord) return;
  const int64_t box = a.order[row];
  const NmsBox<T> mine(a.boxes + 4 * box);
  const int64_t group = a.groups ? a.groups[box] : 0;
  const int64_t columns = a.count - word * kWord < kWord ? a.count - word * kWord : kWord;
  uint64_t bits = 0;
  for (int64_t j = word == row / kWord ? row % kWord + 1 : 0; j < columns; ++j)
    if (column_groups[j] == group && mine.overlaps(NmsBox<T>(column_boxes[j]), a.threshold))
      bits |= uint64_t(1) << j;
  a.overlaps[(row - first_row) * a.words() + word] = bits;
}

// One block walks the rows of a stripe, 64 at a time; a thread owns every 512th word of the boxes
// to come, the first also the choice among the 64. Bound by latency: per 64 boxes two barriers, and
// the reads of what the chosen ones drop, eight at a time.
template <typename T>
__global__ void nms_sweep(Nms<T> a, int64_t first_row, int64_t rows) {
  __shared__ uint64_t later[kWord];  // of a row, within its own word
  __shared__ bool is_dropped[kWord];
  __shared__ int chosen[kWord], num_chosen;
  const int t = threadIdx.x;
  int64_t kept = *a.kept;  // every thread counts for itself
  for (int64_t step = 0; step < rows && kept < a.max_keep; step += kWord) {
    const int64_t word = (first_row + step) / kWord;
    const int64_t here = rows - step < kWord ? rows - step : kWord;
    const uint64_t* overlaps = a.overlaps + step * a.words();
    if (t < here) {
      later[t] = overlaps[t * a.words() + word];
      is_dropped[t] = a.dropped[a.order[first_row + step + t]];
    }
    __syncthreads();
    if (t == 0) {
      uint64_t left = ~a.removed[word];
      if (here < kWord) left &= (uint64_t(1) << here) - 1;
      int n = 0;
      while (left != 0 && kept + n < a.max_keep) {
        const int k = __ffsll(left) - 1;
        left &= left - 1;
        if (is_dropped[k]) continue;
        left &= ~later[k];
        chosen[n++] = k;
      }
      num_chosen = n;
    }
    __syncthreads();
    const int n = num_chosen;
    if (t < n) a.keep[kept + t] = a.order[first_row + step + chosen[t]];
    for (int64_t w = word + 1 + t; w < a.words(); w += blockDim.x) {
      uint64_t gone = a.removed[w];
#pragma unroll 8
      for (int k = 0; k < n; ++k) gone |= overlaps[chosen[k] * a.words() + w];
      a.removed[w] = gone;
    }
    kept += n;
  }
  if (t == 0) *a.kept = kept;
}

// All of it but the sorting. `removed` and `kept` start as zeros.
template <typename T>
void nms(Stream stream, const Nms<T>& a) {
  for (int64_t first = 0; first < a.count; first += kStripe) {
    const int64_t rows = a.count - first < kStripe ? a.count - first : kStripe;
    const dim3 grid(a.words() - first / kWord, ceil_divide(rows, kWord));
    launch(stream, grid, kWord, nms_overlaps<T>, a, first);
    launch(stream, 1, kSweepThreads, nms_sweep<T>, a, first, rows);
  }
}

// A thread owns a place of the output: past the last box it is a zero that is not valid. Bound by
// latency.
static __global__ void nms_valid(const int64_t* kept, int64_t max_out, int64_t* keep, bool* valid) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= max_out) return;
  valid[k] = k < *kept;
  if (k >= *kept) keep[k] = 0;
}

}  // namespace dynamask::cuda
