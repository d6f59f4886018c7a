#include "cpu/simd/mask_targets_polygons.h"

#include <algorithm>

#include "cpu/tensor.h"

namespace dynamask {
namespace {

constexpr int64_t kRoisPerTask = 8;

// The outlines as plain arrays. Offsets are limited to what is there, so that wrong ones cannot
// lead astray.
struct Outlines {
  const float* vertices;
  const int64_t *rings, *instances;
  int64_t num_vertices, num_rings, num_instances;

  int64_t first_ring(int64_t g) const { return limit(instances[g], num_rings); }
  int64_t end_ring(int64_t g) const { return limit(instances[g + 1], num_rings); }
  int64_t first_vertex(int64_t ring) const { return limit(rings[ring], num_vertices); }
  int64_t end_vertex(int64_t ring) const { return limit(rings[ring + 1], num_vertices); }
  int64_t longest_ring() const {
    int64_t longest = 0;
    for (int64_t r = 0; r < num_rings; ++r)
      longest = std::max(longest, end_vertex(r) - first_vertex(r));
    return longest;
  }

 private:
  static int64_t limit(int64_t i, int64_t end) { return std::clamp<int64_t>(i, 0, end); }
};

struct Scratch {
  std::vector<FineVertex> placed;
  std::vector<uint64_t> turns, inside;

  Scratch(int64_t longest_ring, int64_t largest_size)
      : placed(longest_ring),
        turns(largest_size * words_per_row(largest_size)),
        inside(turns.size()) {}
};

void rasterise(const Outlines& outlines, int64_t g, const PolygonGrid& grid, Scratch& scratch,
               uint8_t* out) {
  const auto& kernels = simd::polygon_kernels();
  const int32_t size = grid.size;
  std::fill_n(scratch.inside.begin(), int64_t(size) * words_per_row(size), 0);
  bool finite = true;
  for (int64_t r = outlines.first_ring(g); r < outlines.end_ring(g); ++r) {
    const int64_t first = outlines.first_vertex(r), n = outlines.end_vertex(r) - first;
    if (n <= 0) continue;
    finite &= kernels.add_turns(outlines.vertices + 2 * first, n, grid, scratch.placed.data(),
                                scratch.turns.data());
    kernels.enclose(scratch.turns.data(), scratch.inside.data(), size);
  }
  if (finite) {
    kernels.unpack(scratch.inside.data(), out, size);
  } else {
    std::fill_n(out, int64_t(size) * size, 0);
  }
}

std::vector<Tensor> mask_targets_polygons(const Tensor& vertices_, const Tensor& rings_,
                                          const Tensor& instances_, const Tensor& boxes_,
                                          const Tensor& index_, std::vector<int64_t> sizes) {
  const auto vertices = contiguous(to(vertices_, ScalarType::Float));
  const auto rings = contiguous(to(rings_, ScalarType::Long));
  const auto instances = contiguous(to(instances_, ScalarType::Long));
  const auto boxes = contiguous(to(boxes_, ScalarType::Double));
  const auto index = contiguous(to(index_, ScalarType::Long));
  const Outlines outlines{vertices.const_data_ptr<float>(),
                          rings.const_data_ptr<int64_t>(),
                          instances.const_data_ptr<int64_t>(),
                          vertices.size(0),
                          rings.size(0) - 1,
                          instances.size(0) - 1};
  const int64_t rois = boxes.size(0), longest_ring = outlines.longest_ring();
  const auto* box = boxes.const_data_ptr<double>();
  const auto* instance = index.const_data_ptr<int64_t>();

  std::vector<Tensor> targets;
  std::vector<uint8_t*> out;
  for (const int64_t size : sizes) {
    targets.push_back(empty(boxes, {rois, size, size}, ScalarType::Byte));
    out.push_back(targets.back().mutable_data_ptr<uint8_t>());
  }
  const int64_t largest = sizes.empty() ? 0 : *std::max_element(sizes.begin(), sizes.end());
  parallel_for(0, rois, kRoisPerTask, [&](int64_t begin, int64_t end) {
    Scratch scratch(longest_ring, largest);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t g = instance[r];
      const bool exists = 0 <= g && g < outlines.num_instances && is_finite_box(box + 4 * r);
      for (size_t k = 0; k < sizes.size(); ++k) {
        const int64_t area = sizes[k] * sizes[k];
        if (exists) {
          const auto grid = polygon_grid(box + 4 * r, int32_t(sizes[k]));
          rasterise(outlines, g, grid, scratch, out[k] + r * area);
        } else {
          std::fill_n(out[k] + r * area, area, 0);
        }
      }
    }
  });
  return targets;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) {
  m.impl("mask_targets_polygons", TORCH_BOX(&mask_targets_polygons));
}

}  // namespace dynamask
