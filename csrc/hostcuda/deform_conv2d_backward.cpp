#include "cuda/deform_conv2d_backward.cuh"

#include "hostcuda/deform_conv2d.h"

namespace {

using namespace dynamask::cuda;

// Reads what was convolved, the incoming gradient and the weight; writes the gradients of the
// features, the offsets, the mask and the weight.
template <typename S, typename T>
void run(hostcuda::Input& in, hostcuda::Output& out) {
  const hostcuda::DeformArguments<S, T> a(in);
  const auto& s = a.given.shape;
  const bool deterministic = in.number();
  const auto grad = in.array<S>();
  const auto weight = in.array<T>();           // [groups, taps, O / groups, C / groups]
  std::vector<T> features(a.features.size());  // to be added to
  auto offset = hostcuda::garbage<T>(a.offset.size()), mask = hostcuda::garbage<T>(a.mask.size());
  const int64_t planes = s.offset_groups * s.taps();
  const auto to_offset = hostcuda::planes_of(offset.data(), s, 2 * planes);
  const auto to_mask = hostcuda::planes_of(mask.empty() ? nullptr : mask.data(), s, planes);
  const auto count = static_cast<int64_t>(features.size());
  if (deterministic) {
    T largest[2] = {};
    largest_magnitude({}, grad.data(), static_cast<int64_t>(grad.size()), &largest[0]);
    largest_magnitude({}, weight.data(), static_cast<int64_t>(weight.size()), &largest[1]);
    const FixedSums<T> sums{largest, 2, bits_of_fixed_sums(terms_of_a_feature(s))};
    std::vector<unsigned long long> whole(features.size());
    deform_conv2d_backward_reads({}, a.given, grad.data(), weight.data(), sums,
                                 {whole.data(), to_offset, to_mask});
    from_fixed_sums({}, whole.data(), count, sums, features.data());
  } else {
    deform_conv2d_backward_reads({}, a.given, grad.data(), weight.data(), FreeSums<T>{},
                                 {features.data(), to_offset, to_mask});
  }
  const WeightParts parts(s);
  auto sums = hostcuda::garbage<T>(parts.count * weight.size());
  auto grad_weight = hostcuda::garbage<T>(weight.size());
  deform_conv2d_backward_weight({}, a.given, grad.data(), parts, sums.data(), grad_weight.data());
  out.array(features);
  out.array(offset);
  out.array(mask);
  out.array(grad_weight);
}

}  // namespace

int main(int, char** arguments) {
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  hostcuda::with_types(in.number(),
                       [&](auto s, auto t) { run<decltype(s), decltype(t)>(in, out); });
}
