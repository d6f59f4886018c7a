#include "cuda/bucket_rois.cuh"

#include "hostcuda/arrays.h"

int main(int, char** arguments) {
  using namespace dynamask::cuda;
  hostcuda::Input in(arguments[1]);
  const auto state = in.array<int64_t>();
  const int64_t states = in.number(), n = state.size();
  std::vector<int64_t> order(n), inverse(n), counts(states), offsets(states + 1);
  launch({}, 1, kThreads, bucket_rois_kernel, state.data(), n, states, order.data(), inverse.data(),
         counts.data(), offsets.data());
  hostcuda::Output out(arguments[2]);
  for (const auto& values : {order, inverse, counts, offsets}) out.array(values);
}
