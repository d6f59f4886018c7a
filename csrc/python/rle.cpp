// The Python face of common/rle.h: compressed strings as bytes, pixels as numpy arrays.

#include "common/rle.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "python/register.h"

namespace py = pybind11;
namespace rle = dynamask::rle;

namespace {

rle::Runs parse(const py::bytes& counts, int64_t height, int64_t width) {
  return rle::from_string(std::string_view(counts), rle::pixels_of(height, width));
}

std::vector<rle::Runs> parse_all(const std::vector<py::bytes>& all, int64_t pixels) {
  std::vector<rle::Runs> out;
  out.reserve(all.size());
  for (const auto& counts : all) out.push_back(rle::from_string(std::string_view(counts), pixels));
  return out;
}

using Bitmap = py::array_t<uint8_t, py::array::f_style>;

py::bytes encode(const Bitmap& bitmap) {
  if (bitmap.ndim() != 2) rle::refuse("a bitmap [H, W]", std::to_string(bitmap.ndim()) + " axes");
  const int64_t pixels = rle::pixels_of(bitmap.shape(0), bitmap.shape(1));
  return rle::to_string(rle::from_pixels(bitmap.data(), pixels));
}

Bitmap decode(const py::bytes& counts, int64_t height, int64_t width) {
  const auto runs = parse(counts, height, width);
  Bitmap bitmap({height, width});
  rle::to_pixels(runs, bitmap.mutable_data());
  return bitmap;
}

py::bytes merge(const std::vector<py::bytes>& all, int64_t height, int64_t width, bool intersect) {
  const auto runs = parse_all(all, rle::pixels_of(height, width));
  if (runs.empty()) rle::refuse("at least one mask", "none");
  rle::Runs merged = runs[0];
  for (size_t i = 1; i < runs.size(); ++i) merged = rle::merge(merged, runs[i], intersect);
  return rle::to_string(merged);
}

std::vector<rle::Box> boxes_of(const std::vector<rle::Runs>& all, int64_t height) {
  std::vector<rle::Box> out;
  for (const auto& runs : all) out.push_back(rle::box(runs, height));
  return out;
}

py::array_t<double> iou(const std::vector<py::bytes>& all_a, const std::vector<py::bytes>& all_b,
                        int64_t height, int64_t width, const std::vector<bool>& crowd) {
  const int64_t pixels = rle::pixels_of(height, width);
  const auto a = parse_all(all_a, pixels), b = parse_all(all_b, pixels);
  if (crowd.size() != b.size())
    rle::refuse(std::to_string(b.size()) + " crowd flags", std::to_string(crowd.size()));
  const auto boxes_a = boxes_of(a, height), boxes_b = boxes_of(b, height);
  py::array_t<double> out({a.size(), b.size()});
  auto ratio = out.mutable_unchecked<2>();
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t j = 0; j < b.size(); ++j)
      ratio(i, j) = boxes_a[i].meets(boxes_b[j]) ? rle::iou(a[i], b[j], crowd[j]) : 0;
  return out;
}

}  // namespace

void register_rle(py::module_& m) {
  m.def("encode", &encode, py::arg("bitmap"));
  m.def("decode", &decode, py::arg("counts"), py::arg("height"), py::arg("width"));
  m.def(
      "compress",
      [](const std::vector<int64_t>& counts, int64_t height, int64_t width) {
        const auto runs = rle::from_list(counts, rle::pixels_of(height, width));
        return py::bytes(rle::to_string(runs));
      },
      py::arg("counts"), py::arg("height"), py::arg("width"));
  m.def(
      "check",
      [](const py::bytes& counts, int64_t height, int64_t width) { parse(counts, height, width); },
      py::arg("counts"), py::arg("height"), py::arg("width"));
  m.def(
      "area",
      [](const py::bytes& counts, int64_t height, int64_t width) {
        return rle::area(parse(counts, height, width));
      },
      py::arg("counts"), py::arg("height"), py::arg("width"));
  m.def(
      "to_bbox",
      [](const py::bytes& counts, int64_t height, int64_t width) {
        const auto box = rle::box(parse(counts, height, width), height);
        return py::make_tuple(box.x, box.y, box.width, box.height);
      },
      py::arg("counts"), py::arg("height"), py::arg("width"));
  m.def("merge", &merge, py::arg("counts"), py::arg("height"), py::arg("width"),
        py::arg("intersect"));
  m.def("iou", &iou, py::arg("a"), py::arg("b"), py::arg("height"), py::arg("width"),
        py::arg("crowd"));
}
