#include "cpu/pyramid_pooling.h"

#include <algorithm>
#include <cstring>

#include "cpu/large_pages.h"
#include "cpu/roi_taps.h"
#include "cpu/simd/transpose.h"
#include "cpu/stored_type.h"

namespace dynamask {
namespace {

using torch::headeronly::MemoryFormat;

MemoryFormat format_of(bool channels_last) {
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

Tensor empty_like(const Tensor& like, std::vector<int64_t> sizes, ScalarType dtype, bool rows) {
  auto out = torch::stable::empty(sizes, dtype, std::nullopt, like.device(), std::nullopt,
                                  format_of(rows));
  ask_for_large_pages(out);
  return out;
}

// What lies where: channels innermost ("rows") or outermost ("planes").
struct Strides {
  int64_t y, x, plane;
  Strides(int64_t height, int64_t width, int64_t channels, bool rows)
      : y(rows ? width * channels : width), x(rows ? channels : 1), plane(height * width) {}
};

// The boxes and the maps they are on, in the type of the sums.
template <typename T>
struct Boxes {
  const T* data;  // [R, 5]
  int64_t count, batch, height, width;
  std::vector<int64_t> sizes;  // H, W of each level
  const PyramidPooling& pooling;

  struct Place {
    int64_t level, image;  // -1: nowhere
  };

  Place place_of(int64_t r) const {
    const T* box = data + 5 * r;
    const int64_t image = roi_batch_index(box[0], batch);
    const int64_t level = pooling.rule.level_of(box[3] - box[1], box[4] - box[2]);
    return image < 0 ? Place{-1, -1} : Place{level, image};
  }
  RoiAxis<T> y_axis(int64_t r, int64_t level) const { return axis(r, level, 1, height); }
  RoiAxis<T> x_axis(int64_t r, int64_t level) const { return axis(r, level, 0, width); }

 private:
  RoiAxis<T> axis(int64_t r, int64_t level, int which, int64_t bins) const {
    const T* box = data + 5 * r + 1 + which;
    return roi_axis<T>(box[0], box[2], T(pooling.scales[level]), bins, sizes[2 * level + 1 - which],
                       pooling.sampling_ratio, pooling.aligned);
  }
};

// Taps of the RoI at hand and room for a kernel to work in; one per thread.
template <typename T>
struct Workspace {
  RoiTaps<T> y, x, y_transposed, x_transposed;
  std::vector<char> bytes;

  char* room(int64_t size) {
    constexpr int64_t line = 64;
    if (static_cast<int64_t>(bytes.size()) < size + line) bytes.resize(size + line);
    return bytes.data() + line - reinterpret_cast<uintptr_t>(bytes.data()) % line;
  }
};

template <typename S, typename T>
void pool(const std::vector<Tensor>& features, const Boxes<T>& boxes, int64_t channels, bool rows,
          S* out) {
  const auto& kernel = simd::roi_align_kernels().pool(S{});
  const Strides to(boxes.height, boxes.width, channels, rows);
  const int64_t row_size = channels * boxes.height * boxes.width;
  parallel_for(0, boxes.count, 1, [&](int64_t begin, int64_t end) {
    Workspace<T> work;
    for (int64_t r = begin; r < end; ++r) {
      S* o = out + r * row_size;
      const auto [level, image] = boxes.place_of(r);
      if (level >= 0) {
        const int64_t height = boxes.sizes[2 * level], width = boxes.sizes[2 * level + 1];
        const Strides from(height, width, channels, rows);
        work.y.pixels_of_bins(boxes.y_axis(r, level), from.y, to.y);
        work.x.pixels_of_bins(boxes.x_axis(r, level), from.x, to.x);
        if (!work.y.empty() && !work.x.empty()) {
          const auto* in =
              static_cast<const S*>(features[level].data_ptr()) + image * channels * height * width;
          const auto y = work.y.view(), x = work.x.view();
          if (rows) {
            kernel.rows(in, y, x, o, channels);
          } else {
            kernel.planes(in, y, x, o, channels, from.plane, to.plane,
                          work.room(planes_scratch(x)));
          }
          continue;
        }
      }
      std::memset(static_cast<void*>(o), 0, row_size * sizeof(S));
    }
  });
}

// The boxes of each map of each image, in order.
struct Slabs {
  std::vector<int64_t> first, order;

  template <typename T>
  explicit Slabs(const Boxes<T>& boxes) : first(boxes.sizes.size() / 2 * boxes.batch + 1, 0) {
    std::vector<int64_t> slab(boxes.count, -1);
    for (int64_t r = 0; r < boxes.count; ++r) {
      const auto [level, image] = boxes.place_of(r);
      if (level < 0) continue;
      slab[r] = level * boxes.batch + image;
      ++first[slab[r] + 1];
    }
    for (size_t s = 1; s < first.size(); ++s) first[s] += first[s - 1];
    order.resize(first.back());
    auto next = first;
    for (int64_t r = 0; r < boxes.count; ++r)
      if (slab[r] >= 0) order[next[slab[r]]++] = r;
  }
  int64_t count() const { return static_cast<int64_t>(first.size()) - 1; }
};

// What backward reads and writes. Maps may be rows while the gradient that comes in is planes, as
// after a flatten; the other way round it is copied beforehand.
template <typename T>
struct Gradients {
  const T* of_output;
  std::vector<T*> of_maps;
  int64_t channels;
  bool output_is_rows, maps_are_rows;
};

// Adds the gradients of one slab's boxes for the channels from c0 to c1.
template <typename T>
void add_slab(const Boxes<T>& boxes, const Slabs& slabs, int64_t slab, const Gradients<T>& grads,
              int64_t c0, int64_t c1, Workspace<T>& work) {
  const auto& kernel = simd::roi_align_kernels().add(T{});
  const bool rows = grads.maps_are_rows, turns = rows && !grads.output_is_rows;
  const int64_t level = slab / boxes.batch, image = slab % boxes.batch;
  const int64_t height = boxes.sizes[2 * level], width = boxes.sizes[2 * level + 1];
  const Strides map(height, width, grads.channels, rows);
  const Strides bins(boxes.height, boxes.width, turns ? c1 - c0 : grads.channels, rows);
  T* out = grads.of_maps[level] + image * grads.channels * map.plane + c0 * (rows ? 1 : map.plane);
  for (int64_t k = slabs.first[slab]; k < slabs.first[slab + 1]; ++k) {
    const int64_t r = slabs.order[k];
    work.y.pixels_of_bins(boxes.y_axis(r, level), map.y, bins.y);
    work.x.pixels_of_bins(boxes.x_axis(r, level), map.x, bins.x);
    work.y_transposed.bins_of_pixels(work.y, map.y, bins.y);
    work.x_transposed.bins_of_pixels(work.x, map.x, bins.x);
    const auto y = work.y_transposed.view(), x = work.x_transposed.view();
    const T* grad = grads.of_output + r * grads.channels * bins.plane;
    if (turns) {
      auto* turned = reinterpret_cast<T*>(work.room(bins.plane * (c1 - c0) * sizeof(T)));
      simd::transpose_kernels().of(T{}).run(grad + c0 * bins.plane, bins.plane, turned, c1 - c0,
                                            c1 - c0, bins.plane);
      kernel.rows(turned, y, x, out, c1 - c0);
    } else if (rows) {
      kernel.rows(grad + c0, y, x, out, c1 - c0);
    } else {
      kernel.planes(grad + c0 * bins.plane, y, x, out, c1 - c0, bins.plane, map.plane,
                    work.room(planes_scratch(x)));
    }
  }
}

template <typename T>
void scatter(const Boxes<T>& boxes, const Gradients<T>& grads) {
  // Planes are worked on a few at a time, so that they stay in the cache from box to box. Rows are
  // cut, at cache lines, only to give threads something to do.
  const Slabs slabs(boxes);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t most = std::max<int64_t>(1, grads.channels / 32);
  const int64_t blocks =
      grads.maps_are_rows ? (threads == 1 ? 1 : std::min<int64_t>(most, 4 * threads)) : most;
  const int64_t per_block = (grads.channels + blocks - 1) / blocks;
  parallel_for(0, blocks * slabs.count(), 1, [&](int64_t begin, int64_t end) {
    Workspace<T> work;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t slab = task % slabs.count(), c0 = task / slabs.count() * per_block;
      const int64_t c1 = std::min(grads.channels, c0 + per_block);
      if (c0 < c1) add_slab(boxes, slabs, slab, grads, c0, c1, work);
    }
  });
}

}  // namespace

Tensor PyramidPooling::forward(const std::vector<Tensor>& features_, const Tensor& boxes_,
                               int64_t height, int64_t width) const {
  const Tensor& first = features_[0];
  const bool rows = is_channels_last(first);
  std::vector<Tensor> features;
  std::vector<int64_t> sizes;
  for (const Tensor& f : features_) {
    features.push_back(torch::stable::contiguous(f, format_of(rows)));
    sizes.insert(sizes.end(), {f.size(2), f.size(3)});
  }
  const auto boxes = contiguous(to(boxes_, compute_dtype(first)));
  const int64_t rois = boxes.size(0), channels = first.size(1);
  auto out = empty_like(first, {rois, channels, height, width}, first.scalar_type(), rows);
  with_stored_type(first, [&](auto s, auto t) {
    using S = decltype(s);
    using T = decltype(t);
    const Boxes<T> on{boxes.const_data_ptr<T>(), rois, first.size(0), height, width, sizes, *this};
    pool<S, T>(features, on, channels, rows, static_cast<S*>(out.mutable_data_ptr()));
  });
  return out;
}

std::vector<Tensor> PyramidPooling::backward(const Tensor& grad_, const Tensor& boxes_,
                                             int64_t batch, const std::vector<int64_t>& sizes,
                                             bool channels_last) const {
  const auto dtype = compute_dtype(grad_);
  const auto boxes = contiguous(to(boxes_, dtype));
  const bool rows = channels_last && is_channels_last(grad_);
  const auto grad = torch::stable::contiguous(to(grad_, dtype), format_of(rows));
  const int64_t channels = grad.size(1);
  std::vector<Tensor> grads;
  for (size_t l = 0; l < sizes.size(); l += 2) {
    grads.push_back(
        empty_like(grad, {batch, channels, sizes[l], sizes[l + 1]}, dtype, channels_last));
    torch::stable::zero_(grads.back());
  }
  with_compute_type(grad, [&](auto zero) {
    using T = decltype(zero);
    Gradients<T> of{grad.const_data_ptr<T>(), {}, channels, rows, channels_last};
    for (const Tensor& g : grads) of.of_maps.push_back(g.template mutable_data_ptr<T>());
    const Boxes<T> on{
        boxes.const_data_ptr<T>(), boxes.size(0), batch, grad.size(2), grad.size(3), sizes, *this};
    scatter<T>(on, of);
  });
  for (Tensor& g : grads) g = to(g, grad_.scalar_type());
  return grads;
}

}  // namespace dynamask
