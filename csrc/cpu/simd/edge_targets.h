#pragma once

#include <cstdint>

#include "cpu/simd/variants.h"
#include "ops/edge_targets.h"

namespace dynamask::simd {

struct EdgeKernels {
  using Kernel = void (*)(const void* mask, void* out, int64_t height, int64_t width, MaskBits bits,
                          bool with_coarse, uint8_t* scratch);
  // One mask [H, W] of elements of 1, 2, 4 or 8 bytes
  Kernel of_1, of_2, of_4, of_8;
  int64_t (*scratch_bytes)(int64_t height, int64_t width);
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::EdgeKernels, edge_kernels)
