#include "cuda/nms.cuh"

#include <numeric>

#include "hostcuda/arrays.h"

namespace {

using namespace dynamask::cuda;

template <typename T>
void run(hostcuda::Input& in, hostcuda::Output& out) {
  const auto boxes = in.array<T>();
  const auto scores = in.array<T>();
  const auto groups = in.array<int64_t>();
  const auto threshold = in.array<double>()[0];
  const int64_t count = scores.size(), max_keep = in.number();

  auto keys = hostcuda::garbage<T>(count);
  auto dropped = hostcuda::garbage<uint8_t>(count);
  if (count > 0)
    launch({}, ceil_divide(count, 64), 64, nms_keys<T, T>, boxes.data(), scores.data(), count,
           keys.data(), dropped.data());
  std::vector<int64_t> order(count), kept(1);
  auto keep = hostcuda::garbage<int64_t>(max_keep);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const bool a_is_nan = keys[a] != keys[a], b_is_nan = keys[b] != keys[b];  // first, as in torch
    return a_is_nan || b_is_nan ? a_is_nan > b_is_nan : keys[a] > keys[b];
  });

  Nms<T> a{};
  a.boxes = boxes.data(), a.groups = groups.data(), a.order = order.data();
  a.dropped = dropped.data(), a.count = count, a.max_keep = max_keep;
  a.threshold = dynamask::nms_threshold<T>(threshold);
  auto overlaps = hostcuda::garbage<uint64_t>(std::min(kStripe, a.words() * kWord) * a.words());
  std::vector<uint64_t> removed(a.words());
  a.overlaps = overlaps.data(), a.removed = removed.data();
  a.keep = keep.data(), a.kept = kept.data();
  nms(Stream{}, a);

  const auto valid = std::make_unique<bool[]>(max_keep);
  if (max_keep > 0)
    launch({}, ceil_divide(max_keep, 64), 64, nms_valid, kept.data(), max_keep, keep.data(),
           valid.get());
  out.array(keep);
  out.array(std::vector<char>(valid.get(), valid.get() + max_keep));
}

}  // namespace

int main(int, char** arguments) {
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  if (in.number() == 8)
    run<double>(in, out);
  else
    run<float>(in, out);
}
