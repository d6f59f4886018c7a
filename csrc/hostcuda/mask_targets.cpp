#include "cuda/mask_targets.cuh"

#include "hostcuda/mask_targets.h"

int main(int, char** arguments) {
  using namespace dynamask::cuda;
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  const hostcuda::TargetArguments<float> a(in);
  const auto pixels = in.array<uint8_t>();
  const int64_t height = in.number(), width = in.number();
  const int64_t rows = a.given.instances * height;
  auto words = hostcuda::garbage<uint32_t>(rows * words_of_row(width));
  pack_bitmaps({}, pixels.data(), rows, width, words.data());
  mask_targets({}, a.given, Bitmaps{words.data(), height, width});
  for (const auto& targets : a.out) out.array(targets);
}
