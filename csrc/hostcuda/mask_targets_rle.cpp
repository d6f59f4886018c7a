#include "cuda/mask_targets_rle.cuh"

#include "hostcuda/mask_targets.h"

int main(int, char** arguments) {
  using namespace dynamask::cuda;
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  const hostcuda::TargetArguments<float> a(in);
  const auto text = in.array<uint8_t>();
  const auto starts = in.array<int64_t>(), image_sizes = in.array<int64_t>();
  auto ends = hostcuda::garbage<int32_t>(text.size());
  auto runs = hostcuda::garbage<int32_t>(starts.size() - 1);
  const auto bytes = static_cast<int64_t>(text.size()), masks = static_cast<int64_t>(runs.size());
  mask_targets_rle(
      {}, a.given,
      {text.data(), starts.data(), image_sizes.data(), bytes, masks, ends.data(), runs.data()});
  for (const auto& targets : a.out) out.array(targets);
}
