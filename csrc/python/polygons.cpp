#include "python/register.h"

void register_polygons(pybind11::module_& m) {}
