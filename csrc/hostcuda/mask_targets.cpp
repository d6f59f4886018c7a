#include "hostcuda/mask_targets.h"

int main(int, char** arguments) {
  using namespace dynamask::cuda;
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  const hostcuda::TargetArguments<float> a(in);
  const auto pixels = in.array<uint8_t>();
  const int64_t height = in.number(), width = in.number();
  mask_targets({}, a.given, Bitmaps{pixels.data(), height, width});
  for (const auto& targets : a.out) out.array(targets);
}
