// Products of small matrices by a block: every sum stays with one thread, in registers.

#pragma once

#include "cuda/launch.h"
#include "cuda/storage.h"

namespace dynamask::cuda {

// A block is kSide x kSide threads. A warp takes two rows of them, so that what it reads of the
// left matrix is broadcast and what it reads of the right one is contiguous.
constexpr int kSide = 16;
constexpr int kTileThreads = kSide * kSide;

// The terms that are in shared memory at a time.
template <typename T>
constexpr int kDepth = 128 / sizeof(T);

// Blocks that shall fit a multiprocessor, which limits their registers.
template <typename T>
constexpr int kTileBlocks = sizeof(T) == 8 ? 1 : 2;

// A tile of left [m, k] times right [k, n]; a thread owns kM rows and kN columns of it.
template <typename T, int kM, int kN>
struct TileProduct {
  static constexpr int kRows = kSide * kM, kColumns = kSide * kN;
  static constexpr int kPack = kN < 4 ? kN : 4;
  // One pack more per row than the depth, so that rows start in different banks.
  using Left = Pack<T, 4>[kRows][kDepth<T> / 4 + 1];
  using Right = Pack<T, kPack>[kDepth<T>][kColumns / kPack];

  T sum[kM][kN] = {};

  DYNAMASK_HOST_DEVICE static int row(int i) {
    return static_cast<int>(threadIdx.x) / kSide + kSide * i;
  }
  DYNAMASK_HOST_DEVICE static int column(int j) {
    return (j / kPack * kSide + static_cast<int>(threadIdx.x) % kSide) * kPack + j % kPack;
  }

  // The terms of one step are summed first: a sum of thousands loses fewer digits in two levels.
  DYNAMASK_HOST_DEVICE void add(const Left& left, const Right& right) {
    T part[kM][kN] = {};
#pragma unroll 1
    for (int k = 0; k < kDepth<T>; k += 4) {
      Pack<T, 4> a[kM];
#pragma unroll
      for (int i = 0; i < kM; ++i) a[i] = left[row(i)][k / 4];
#pragma unroll
      for (int l = 0; l < 4; ++l) {
#pragma unroll
        for (int j = 0; j < kN; j += kPack) {
          const Pack<T, kPack> b = right[k + l][column(j) / kPack];
#pragma unroll
          for (int i = 0; i < kM; ++i)
#pragma unroll
            for (int e = 0; e < kPack; ++e)
              part[i][j + e] = fma(a[i].value[l], b.value[e], part[i][j + e]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int j = 0; j < kN; ++j) sum[i][j] += part[i][j];
  }
};

}  // namespace dynamask::cuda
