#include "cpu/simd/mask_targets_polygons.h"

#include <algorithm>

#include "cpu/mask_targets_rows.h"

namespace dynamask {
namespace {

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

class Rasteriser {
 public:
  Rasteriser(const Outlines& outlines, int64_t longest_ring, int64_t largest_size)
      : outlines_(outlines),
        placed_(longest_ring),
        turns_(largest_size * words_per_row(largest_size)),
        inside_(turns_.size()) {}

  void start(int64_t g, const double* box) {
    instance_ = g;
    box_ = box;
  }

  void fill(int32_t size, uint8_t* out) {
    const auto& kernels = simd::polygon_kernels();
    const auto grid = polygon_grid(box_, size);
    std::fill_n(inside_.begin(), int64_t(size) * words_per_row(size), 0);
    bool finite = true;
    for (int64_t r = outlines_.first_ring(instance_); r < outlines_.end_ring(instance_); ++r) {
      const int64_t first = outlines_.first_vertex(r), n = outlines_.end_vertex(r) - first;
      if (n <= 0) continue;
      const float* vertices = outlines_.vertices + 2 * first;
      finite &= kernels.add_turns(vertices, n, grid, placed_.data(), turns_.data());
      kernels.enclose(turns_.data(), inside_.data(), size);
    }
    if (finite) {
      kernels.unpack(inside_.data(), out, size);
    } else {
      std::fill_n(out, int64_t(size) * size, 0);
    }
  }

 private:
  const Outlines& outlines_;
  std::vector<FineVertex> placed_;
  std::vector<uint64_t> turns_, inside_;
  int64_t instance_ = 0;
  const double* box_ = nullptr;
};

std::vector<Tensor> mask_targets_polygons(const Tensor& vertices_, const Tensor& rings_,
                                          const Tensor& instances_, const Tensor& boxes,
                                          const Tensor& index, std::vector<int64_t> sizes) {
  const auto vertices = contiguous(to(vertices_, ScalarType::Float));
  const auto rings = contiguous(to(rings_, ScalarType::Long));
  const auto instances = contiguous(to(instances_, ScalarType::Long));
  const Outlines outlines{vertices.const_data_ptr<float>(),
                          rings.const_data_ptr<int64_t>(),
                          instances.const_data_ptr<int64_t>(),
                          vertices.size(0),
                          rings.size(0) - 1,
                          instances.size(0) - 1};
  const int64_t longest_ring = outlines.longest_ring();
  const int64_t largest = sizes.empty() ? 0 : *std::max_element(sizes.begin(), sizes.end());
  return fill_targets<double>(boxes, index, outlines.num_instances, sizes,
                              [&] { return Rasteriser(outlines, longest_ring, largest); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) {
  m.impl("mask_targets_polygons", TORCH_BOX(&mask_targets_polygons));
}

}  // namespace dynamask
