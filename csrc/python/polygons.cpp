// The Python face of common/outlines.h: rings as flat lists, masks as compressed strings.

#include <pybind11/stl.h>

#include <cmath>

#include "common/outlines.h"
#include "python/register.h"

namespace py = pybind11;
namespace rle = dynamask::rle;

namespace {

void check_ring(const dynamask::Ring& ring, size_t index) {
  const auto where = " in ring " + std::to_string(index);
  if (ring.size() % 2) rle::refuse("an even count of numbers" + where, std::to_string(ring.size()));
  if (ring.size() < 6) rle::refuse("at least 3 corners" + where, std::to_string(ring.size() / 2));
  for (size_t i = 0; i < ring.size(); ++i)
    if (!std::isfinite(ring[i]))
      rle::refuse("finite numbers" + where,
                  std::to_string(ring[i]) + " at index " + std::to_string(i));
}

py::bytes from_polygons(const std::vector<dynamask::Ring>& rings, int64_t height, int64_t width) {
  for (size_t i = 0; i < rings.size(); ++i) check_ring(rings[i], i);
  return rle::to_string(dynamask::fill_rings(rings, height, width));
}

std::vector<dynamask::Ring> to_polygons(const py::bytes& counts, int64_t height, int64_t width) {
  const auto runs = rle::from_string(std::string_view(counts), rle::pixels_of(height, width));
  return dynamask::OutlineTracer(runs, height, width).rings();
}

}  // namespace

void register_polygons(py::module_& m) {
  m.def("from_polygons", &from_polygons);
  m.def("to_polygons", &to_polygons);
}
