#include "cpu/deform_conv2d.h"

namespace dynamask {
namespace {

constexpr int64_t kDataPixels = 144;
constexpr int64_t kDataColumns = 256;
constexpr int64_t kWeightPixels = 256;
constexpr int64_t kWeightColumns = 128;  // less, since chunks are what threads share out

// The weights of each group, chunk by chunk, as panels [out channel, panel of columns], the last
// panel of a chunk filled with zeros.
template <typename T>
class PackedColumns {
 public:
  PackedColumns(const DeformConv2dShape& s, const std::vector<ColumnChunk>& chunks, const T* weight,
                int64_t panel)
      : chunks_(static_cast<int64_t>(chunks.size())), memory_(size(s, chunks, panel)) {
    T* to = memory_.data();
    for (int64_t group = 0; group < s.groups; ++group)
      for (const auto& chunk : chunks) {
        first_.push_back(to);
        to += round_up(chunk.columns(), panel) * s.group_out_channels();
      }
    const int64_t columns = s.taps() * s.group_channels();
    Scratch<T> row(columns);  // of an out channel: (tap, channel)
    for (int64_t o = 0; o < s.out_channels; ++o) {
      simd::transpose_kernels().of(T{}).run(weight + o * columns, s.taps(), row.data(),
                                            s.group_channels(), s.group_channels(), s.taps());
      for (int64_t i = 0; i < chunks_; ++i)
        store(s, row.data(), o, chunks[i], panel, first_[o / s.group_out_channels() * chunks_ + i]);
    }
  }

  const T* first(int64_t group, int64_t chunk) const { return first_[group * chunks_ + chunk]; }

 private:
  static int64_t size(const DeformConv2dShape& s, const std::vector<ColumnChunk>& chunks,
                      int64_t panel) {
    int64_t columns = 0;
    for (const auto& chunk : chunks) columns += round_up(chunk.columns(), panel);
    return columns * s.out_channels;
  }

  static void store(const DeformConv2dShape& s, const T* row, int64_t o, const ColumnChunk& chunk,
                    int64_t panel, T* to) {
    const int64_t rows = s.group_out_channels();
    to += o % rows * panel;
    for (int64_t j = 0; j < chunk.columns(); j += panel, to += rows * panel) {
      const int64_t count = std::min(panel, chunk.columns() - j);
      std::copy_n(row + chunk.first_column + j, count, to);
      std::fill_n(to + count, panel - count, T(0));
    }
  }

  int64_t chunks_;
  Scratch<T> memory_;
  std::vector<T*> first_;
};

template <typename T>
struct Gradients {
  std::optional<Images<T>> input, offset, mask;
  T* weight = nullptr;
};

// What one chunk of the columns of one group adds to the gradient of the weight, over all images.
// One thread at a time owns it and takes the images in order, so the sum does not depend on how
// many threads there are.
template <typename T>
struct WeightSums {
  int64_t group;
  ColumnChunk chunk;
  Scratch<T> sums;  // [out channels of the group, columns_row]

  WeightSums(const DeformConv2dShape& s, int64_t group, const ColumnChunk& chunk)
      : group(group), chunk(chunk), sums(s.group_out_channels() * columns_row<T>(chunk.columns())) {
    sums.fill_with_zeros();
  }
};

template <typename T>
class Backward {
 public:
  Backward(const DeformConv2dShape& s, const Images<const T>& grad, const Images<const T>& input,
           const Planes<T>& offset, const std::optional<Planes<T>>& mask, const T* weight,
           const Gradients<T>& gradients)
      : s_(s),
        grad_(grad),
        input_(input),
        offset_(offset),
        mask_(mask),
        to_(gradients),
        gemm_(simd::gemm_kernels().of(T(0))),
        kernel_(simd::deform_conv2d_kernels().of(T(0))),
        data_tiles_(s.out_pixels(), kDataPixels),
        weight_tiles_(s.out_pixels(), kWeightPixels),
        chunks_(column_chunks(s, kDataColumns)) {
    if (needs_data()) weight_.emplace(s, chunks_, weight, gemm_.panel);
    if (to_.weight)
      for (int64_t group = 0; group < s.groups; ++group)
        for (const auto& chunk : column_chunks(s, kWeightColumns))
          weight_sums_.push_back(std::make_unique<WeightSums<T>>(s, group, chunk));
  }

  void run() {
    const int64_t at_once = std::min<int64_t>(s_.batch, torch::stable::get_num_threads());
    const bool reads_input = needs_products() || to_.weight;
    RingedImages<T> images(s_, reads_input ? at_once : 0);
    RingedImages<T> grad_images(s_, to_.input ? at_once : 0);
    for (int64_t n = 0; n < s_.batch; n += at_once) {
      const int64_t count = std::min(at_once, s_.batch - n);
      if (reads_input)
        parallel_for(0, count * s_.height, 64, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i)
            images.copy_row_from(input_, n + i / s_.height, i / s_.height, i % s_.height);
        });
      if (needs_data())
        parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) run_data(images, grad_images, n + i, i);
        });
      parallel_for(0, static_cast<int64_t>(weight_sums_.size()), 1,
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i)
                       run_weight(images, n, count, *weight_sums_[i]);
                   });
    }
    if (to_.weight) store_weight();
  }

 private:
  bool needs_products() const { return to_.offset || to_.mask; }
  bool needs_data() const { return to_.input || needs_products(); }

  // The gradients of the input, the offsets and the mask of image n: what its columns would get.
  void run_data(const RingedImages<T>& images, RingedImages<T>& grad_images, int64_t n,
                int64_t slot) {
    TapReader<T> reader(s_, offset_, mask_, data_tiles_.size);
    int64_t widest = 0;
    for (const auto& chunk : chunks_) widest = std::max(widest, chunk.columns());
    const int64_t planes = s_.offset_groups * s_.taps();
    Scratch<T> columns(data_tiles_.size * columns_row<T>(widest)), products(data_tiles_.size * 4);
    Scratch<T> offset_planes(needs_products() ? 2 * planes * data_tiles_.size : 0);
    Scratch<T> grad(grad_.channels_last() ? 0 : data_tiles_.size * s_.out_channels);
    Scratch<T> mask_planes(needs_products() && mask_ ? planes * data_tiles_.size : 0);
    if (to_.input) grad_images.fill_with_zeros(slot);
    for (int64_t tile = 0; tile < data_tiles_.count; ++tile) {
      const int64_t first = data_tiles_.begin(tile), pixels = data_tiles_.length(tile);
      const Rows grad_rows = rows_of_grad(n, first, pixels, grad.data());
      reader.start(n, first, pixels);
      offset_planes.fill_with_zeros();
      mask_planes.fill_with_zeros();
      for (int64_t group = 0; group < s_.groups; ++group)
        for (size_t i = 0; i < chunks_.size(); ++i) {
          const int64_t row = columns_row<T>(chunks_[i].columns());
          multiply_by_weight(grad_rows, group, i, pixels, columns.data(), row);
          reader.for_each_run(
              group, chunks_[i],
              [&](auto& tap, auto& reads, auto plane, auto channel, auto count, auto column) {
                const T* grad = columns.data() + column;
                if (needs_products()) {
                  T* grad_y = offset_planes.data() + 2 * plane * data_tiles_.size;
                  T* grad_mask = mask_planes.data() + plane * data_tiles_.size;
                  kernel_.multiply(reads, pixels, images.channels(slot, channel, count), grad, row,
                                   products.data());
                  kernel_.add_offset_gradients(tap, products.data(), grad_y,
                                               grad_y + data_tiles_.size, grad_mask);
                }
                if (to_.input)
                  kernel_.scatter(reads, pixels, grad, row,
                                  grad_images.channels(slot, channel, count));
              });
        }
      if (to_.offset) store_planes(offset_planes.data(), *to_.offset, n, first, pixels);
      if (to_.mask) store_planes(mask_planes.data(), *to_.mask, n, first, pixels);
    }
    if (to_.input)
      for (int64_t y = 0; y < s_.height; ++y) grad_images.copy_row_to(*to_.input, n, slot, y);
  }

  struct Rows {
    const T* data;
    int64_t row;
  };

  // A tile of pixels of the incoming gradient, [pixels, out channels]: in place or in `memory`.
  Rows rows_of_grad(int64_t n, int64_t first, int64_t pixels, T* memory) const {
    const T* from = grad_.image(n) + first * grad_.pixel_stride;
    if (grad_.channels_last()) return {from, grad_.channels};
    simd::transpose_kernels().of(T{}).run(from, grad_.channel_stride, memory, grad_.channels,
                                          grad_.channels, pixels);
    return {memory, grad_.channels};
  }

  // columns[p, (k, c)] = sum over out channels o of grad[p, o] * weight[o, c, k]
  void multiply_by_weight(const Rows& grad, int64_t group, size_t chunk, int64_t pixels, T* columns,
                          int64_t row) {
    const int64_t depth = s_.group_out_channels();
    gemm_.run({pixels, chunks_[chunk].columns(), depth, grad.data + group * depth, grad.row, 1,
               weight_->first(group, static_cast<int64_t>(chunk)), depth * gemm_.panel, gemm_.panel,
               nullptr, 0, columns, row});
  }

  void run_weight(const RingedImages<T>& images, int64_t first_image, int64_t count,
                  WeightSums<T>& to) {
    TapReader<T> reader(s_, offset_, mask_, weight_tiles_.size);
    const int64_t row = columns_row<T>(to.chunk.columns()), rows = s_.group_out_channels();
    Scratch<T> columns(weight_tiles_.size * row);
    columns.fill_with_zeros();  // the product reads, and ignores, the end of the last panel
    for (int64_t slot = 0; slot < count; ++slot)
      for (int64_t tile = 0; tile < weight_tiles_.count; ++tile) {
        const int64_t first = weight_tiles_.begin(tile), pixels = weight_tiles_.length(tile);
        reader.start(first_image + slot, first, pixels);
        reader.gather(images, slot, to.group, to.chunk, columns.data(), row);
        gemm_.run({rows, to.chunk.columns(), pixels,
                   grad_.image(first_image + slot) + first * grad_.pixel_stride +
                       to.group * rows * grad_.channel_stride,
                   grad_.channel_stride, grad_.pixel_stride, columns.data(), gemm_.panel, row,
                   to.sums.data(), row, to.sums.data(), row});
      }
  }

  // From the sums' [out channel, (tap, channel)] to [out channel, channel, tap].
  void store_weight() {
    const int64_t rows = s_.group_out_channels(), columns = s_.taps() * s_.group_channels();
    parallel_for(0, s_.out_channels, 16, [&](int64_t begin, int64_t end) {
      Scratch<T> all(columns);
      for (int64_t o = begin; o < end; ++o) {
        for (const auto& sums : weight_sums_)
          if (sums->group == o / rows)
            std::copy_n(sums->sums.data() + o % rows * columns_row<T>(sums->chunk.columns()),
                        sums->chunk.columns(), all.data() + sums->chunk.first_column);
        simd::transpose_kernels().of(T{}).run(all.data(), s_.group_channels(),
                                              to_.weight + o * columns, s_.taps(), s_.taps(),
                                              s_.group_channels());
      }
    });
  }

  void store_planes(const T* planes, const Images<T>& to, int64_t n, int64_t first,
                    int64_t pixels) {
    T* out = to.image(n) + first * to.pixel_stride;
    if (to.channels_last())
      simd::transpose_kernels().of(T(0)).run(planes, data_tiles_.size, out, to.channels,
                                             to.channels, pixels);
    else
      for (int64_t c = 0; c < to.channels; ++c)
        std::copy_n(planes + c * data_tiles_.size, pixels, out + c * to.channel_stride);
  }

  const DeformConv2dShape s_;
  const Images<const T> grad_, input_;
  const Planes<T> offset_;
  const std::optional<Planes<T>> mask_;
  const Gradients<T> to_;
  const simd::GemmKernel<T>& gemm_;
  const simd::DeformConv2dKernel<T>& kernel_;
  const PixelTiles data_tiles_, weight_tiles_;
  const std::vector<ColumnChunk> chunks_;
  std::optional<PackedColumns<T>> weight_;
  std::vector<std::unique_ptr<WeightSums<T>>> weight_sums_;
};

// A gradient in the compute dtype and the layout of `like`; empty if nobody asked for it.
Tensor gradient(const Tensor& like, bool needed) {
  if (!needed) return empty(like, {0}, like.scalar_type());
  return empty_images(like, like.size(0), like.size(1), like.size(2), like.size(3),
                      is_channels_last(like));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad_, const Tensor& input_, const Tensor& offset_, const Tensor& weight_,
    const std::optional<Tensor>& mask_, std::vector<int64_t> stride, std::vector<int64_t> padding,
    std::vector<int64_t> dilation, bool needs_input, bool needs_offset, bool needs_weight,
    bool needs_mask, bool /*deterministic*/) {
  const auto s = checked_shape(input_, offset_, weight_, mask_, stride, padding, dilation);
  STD_TORCH_CHECK(grad_.dim() == 4 && grad_.size(0) == s.batch && grad_.size(1) == s.out_channels &&
                      grad_.size(2) == s.out_height && grad_.size(3) == s.out_width,
                  "deform_conv2d_backward: expected grad of the shape of the output");
  const auto dtype = compute_dtype(input_);
  const auto grad = dense_images(grad_, dtype), input = dense_images(input_, dtype);
  const auto offset = dense_images(offset_, dtype), weight = contiguous(to(weight_, dtype));
  std::optional<Tensor> mask;
  if (mask_) mask = dense_images(*mask_, dtype);
  needs_mask = needs_mask && mask_;

  auto grad_input = gradient(input, needs_input), grad_offset = gradient(offset, needs_offset);
  auto grad_weight = gradient(weight, needs_weight);
  auto grad_mask = gradient(mask ? *mask : offset, needs_mask);
  with_compute_type(input, [&](auto zero) {
    using T = decltype(zero);
    Gradients<T> to;
    if (needs_input) to.input = write_images<T>(grad_input);
    if (needs_offset) to.offset = write_images<T>(grad_offset);
    if (needs_mask) to.mask = write_images<T>(grad_mask);
    if (needs_weight) to.weight = grad_weight.mutable_data_ptr<T>();
    std::optional<Planes<T>> masks;
    if (mask) masks = read_planes<T>(*mask);
    Backward<T>(s, read_images<T>(grad), read_images<T>(input), read_planes<T>(offset), masks,
                weight.const_data_ptr<T>(), to)
        .run();
  });
  return {to(grad_input, input_.scalar_type()), to(grad_offset, offset_.scalar_type()),
          to(grad_weight, weight_.scalar_type()),
          to(grad_mask, mask_ ? mask_->scalar_type() : offset_.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) {
  m.impl("deform_conv2d_backward", TORCH_BOX(&deform_conv2d_backward));
}

}  // namespace dynamask
