#include "python/register.h"

void register_rle(pybind11::module_& m) {}
