#include "cuda/edge_targets.cuh"

#include "hostcuda/arrays.h"

namespace {

using namespace dynamask::cuda;

template <typename To>
struct Masks {
  std::vector<std::vector<uint32_t>> masks;
  std::vector<std::vector<To>> out;
  MasksOfSizes<uint32_t, To> all{};

  explicit Masks(hostcuda::Input& in) {
    all.sizes = in.number();
    all.magnitude = 0x7fffffff;
    for (int64_t k = 0; k < all.sizes; ++k) {
      all.height[k] = in.number(), all.width[k] = in.number();
      masks.push_back(in.array<uint32_t>());
      out.push_back(hostcuda::garbage<To>(masks[k].size()));
      all.end[k] = (k == 0 ? 0 : all.end[k - 1]) + masks[k].size();
    }
    for (int64_t k = 0; k < all.sizes; ++k)
      all.masks[k] = masks[k].data(), all.out[k] = out[k].data();
  }
};

}  // namespace

int main(int, char** arguments) {
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  const int64_t width = in.number();  // of the band of blocks; 0: edges, -1: with the coarse ones
  if (width > 0) {
    const Masks<uint8_t> given(in);
    block_targets({}, given.all, dynamask::Blocks(static_cast<int>(width)));
    for (const auto& values : given.out) out.array(values);
  } else {
    const Masks<uint32_t> given(in);
    edge_targets({}, given.all, 0x3f800000u, width < 0);
    for (const auto& values : given.out) out.array(values);
  }
}
