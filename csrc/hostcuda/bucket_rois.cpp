#include "cuda/bucket_rois.cuh"

#include "hostcuda/arrays.h"

int main(int, char** arguments) {
  using namespace dynamask::cuda;
  hostcuda::Input in(arguments[1]);
  const auto state = in.array<int64_t>();
  const int64_t states = in.number(), n = state.size();
  const auto room = [](int64_t count) { return hostcuda::garbage<int64_t>(count); };
  auto order = room(n), inverse = room(n), counts = room(states), offsets = room(states + 1);
  const auto sides = in.array<int64_t>();
  auto sizes = room(n), mask_offsets = room(n + 1);
  MaskPlaces masks{};
  std::copy(sides.begin(), sides.end(), masks.side);
  masks.sizes = sizes.data(), masks.offsets = mask_offsets.data();
  launch({}, 1, kThreads, bucket_rois_kernel, state.data(), n, states, order.data(), inverse.data(),
         counts.data(), offsets.data(), masks);
  hostcuda::Output out(arguments[2]);
  for (const auto& values : {order, inverse, counts, offsets, sizes, mask_offsets})
    out.array(values);
}
