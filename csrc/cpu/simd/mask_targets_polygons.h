#pragma once

#include <cstdint>

#include "cpu/simd/variants.h"
#include "ops/mask_targets.h"

namespace dynamask::simd {

struct PolygonKernels {
  // Adds the turns of one ring of n vertices (x, y) to turns [S, words]. `placed` has room for n.
  // Returns whether all its vertices are finite.
  bool (*add_turns)(const float* vertices, int64_t n, const PolygonGrid& grid, FineVertex* placed,
                    uint64_t* turns);
  // inside |= what the turns enclose; turns become zero again
  void (*enclose)(uint64_t* turns, uint64_t* inside, int32_t size);
  // bits [S, words] to bytes [S, S]
  void (*unpack)(const uint64_t* inside, uint8_t* out, int32_t size);
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::PolygonKernels, polygon_kernels)
