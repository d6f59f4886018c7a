// What each file of this folder adds to the module `dynamask._codec`.

#pragma once

#include <pybind11/pybind11.h>

void register_polygons(pybind11::module_& m);
void register_rle(pybind11::module_& m);
