// The arguments that the kernels of deform_conv2d share.

#pragma once

#include "cuda/deform_columns.h"
#include "hostcuda/arrays.h"

namespace hostcuda {

// Planes [N, planes, Ho, Wo], contiguous.
template <typename T>
dynamask::cuda::PixelPlanes<T> planes_of(T* data, const dynamask::DeformConv2dShape& s,
                                         int64_t planes) {
  return {data, planes * s.out_pixels(), s.out_pixels(), s.out_width, 1};
}

template <typename S, typename T>
struct DeformArguments {
  std::vector<S> features;
  std::vector<T> offset, mask;  // mask may be empty
  dynamask::cuda::DeformInput<S, T> given{};

  explicit DeformArguments(Input& in) {
    const auto numbers = in.array<int64_t>();
    auto& s = given.shape;
    int64_t* const field[] = {
        &s.batch,        &s.channels,       &s.height,        &s.width,           &s.out_channels,
        &s.out_height,   &s.out_width,      &s.kernel_height, &s.kernel_width,    &s.stride_height,
        &s.stride_width, &s.padding_height, &s.padding_width, &s.dilation_height, &s.dilation_width,
        &s.groups,       &s.offset_groups};
    for (size_t i = 0; i < numbers.size(); ++i) *field[i] = numbers[i];
    features = in.array<S>(), offset = in.array<T>(), mask = in.array<T>();
    const int64_t planes = s.offset_groups * s.taps();
    given.features = features.data();
    given.packed = dynamask::cuda::fits_packs_of_four(features.data(), s);
    given.offset = planes_of<const T>(offset.data(), s, 2 * planes);
    given.mask = planes_of<const T>(mask.empty() ? nullptr : mask.data(), s, planes);
  }
};

// Calls f with the type of features and that of sums.
template <typename F>
void with_types(int64_t dtype, F f) {
  using namespace dynamask::cuda;
  switch (dtype) {
    case 0:
      return f(float{}, float{});
    case 1:
      return f(double{}, double{});
    case 2:
      return f(Float16{}, float{});
    default:
      return f(BFloat16{}, float{});
  }
}

}  // namespace hostcuda
