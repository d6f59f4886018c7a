#pragma once

#include <cstdint>

#include "cpu/simd/variants.h"
#include "ops/edge_targets.h"

namespace dynamask::simd {

// What an element may read, for each place of a mask and the 64 after it, all ones or zero.
template <typename T>
struct EdgePlaces {
  const T* inside;  // has all 8 neighbours
  // the even site to look at is the left, the upper, or the upper left neighbour
  const T *left, *up, *corner;
};

template <typename T>
struct EdgeKernel {
  // Masks [N, H, W] one after the other
  void (*edges)(const T* masks, T* out, EdgeTargetsShape shape, MaskBits bits,
                const EdgePlaces<T>& places);
  // Adds the edges of the even sites to what `edges` wrote
  void (*add_coarse)(T* out, EdgeTargetsShape shape, const EdgePlaces<T>& places);
  // One mask [H, W] to its blocks; scratch holds block_scratch bytes
  void (*blocks)(const T* mask, uint8_t* out, int64_t height, int64_t width, MaskBits bits,
                 Blocks blocks, uint8_t* scratch);
};

struct EdgeKernels {
  EdgeKernel<uint8_t> of_1;
  EdgeKernel<uint16_t> of_2;
  EdgeKernel<uint32_t> of_4;
  EdgeKernel<uint64_t> of_8;
  const auto& of(uint8_t) const { return of_1; }
  const auto& of(uint16_t) const { return of_2; }
  const auto& of(uint32_t) const { return of_4; }
  const auto& of(uint64_t) const { return of_8; }
  int64_t (*block_scratch)(int64_t height, int64_t width);
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::EdgeKernels, edge_kernels)
