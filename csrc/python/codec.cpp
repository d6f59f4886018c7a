// The pybind11 module `dynamask._codec`: what is no tensor, RLE byte strings and polygon lists.

#include "python/register.h"

PYBIND11_MODULE(_codec, m) {
  m.doc() = "COCO run-length strings and polygons.";
  register_polygons(m);
  register_rle(m);
}
