#include "cuda/mask_targets_polygons.cuh"

#include "hostcuda/mask_targets.h"

int main(int, char** arguments) {
  using namespace dynamask::cuda;
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  const hostcuda::TargetArguments<double> a(in);
  const auto vertices = in.array<float>();
  const auto rings = in.array<int64_t>(), instances = in.array<int64_t>();
  const auto num_vertices = static_cast<int64_t>(vertices.size() / 2);
  const auto num_rings = static_cast<int64_t>(rings.size()) - 1;
  mask_targets_polygons({}, a.given,
                        {vertices.data(), rings.data(), instances.data(), num_vertices, num_rings});
  for (const auto& targets : a.out) out.array(targets);
}
