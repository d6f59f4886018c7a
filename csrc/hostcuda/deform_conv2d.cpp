#include "hostcuda/deform_conv2d.h"

#include "cuda/deform_conv2d.cuh"

int main(int, char** arguments) {
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  hostcuda::with_types(in.number(), [&](auto s, auto t) {
    using S = decltype(s);
    using T = decltype(t);
    const hostcuda::DeformArguments<S, T> a(in);
    const auto weight = in.array<T>(), bias = in.array<T>();
    auto convolved = hostcuda::garbage<S>(a.given.pixels() * a.given.shape.out_channels);
    dynamask::cuda::deform_conv2d({}, a.given, weight.data(), bias.empty() ? nullptr : bias.data(),
                                  convolved.data());
    out.array(convolved);
  });
}
