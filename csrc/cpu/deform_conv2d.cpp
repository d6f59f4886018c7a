#include "cpu/deform_conv2d.h"

#include "cpu/packed_weight.h"

namespace dynamask {

DeformConv2dShape checked_shape(const Tensor& input, const Tensor& offset, const Tensor& weight,
                                const std::optional<Tensor>& mask,
                                const std::vector<int64_t>& stride,
                                const std::vector<int64_t>& padding,
                                const std::vector<int64_t>& dilation) {
  const auto s = deform_conv2d_shape(input, offset, weight, mask, stride, padding, dilation);
  STD_TORCH_CHECK(s, "deform_conv2d: expected shapes that fit together");
  STD_TORCH_CHECK(
      s->is_countable(),
      "deform_conv2d: expected images of fewer than 2^24 rows and columns and 2^31 pixels, got ",
      s->height, " x ", s->width);
  return *s;
}

Tensor dense_planes(const Tensor& t, ScalarType dtype) {
  const auto own = t.scalar_type();
  const bool is_narrower = own == ScalarType::BFloat16 || own == ScalarType::Half;
  return dense_images(t, is_narrower && dtype == ScalarType::Float ? own : dtype);
}

std::vector<ColumnChunk> column_chunks(const DeformConv2dShape& s, int64_t limit,
                                       int64_t interleaved) {
  std::vector<ColumnChunk> chunks;
  const int64_t channels = s.group_channels(), tap_columns = round_up(channels, interleaved);
  if (channels > limit) {
    for (int64_t k = 0; k < s.taps(); ++k)
      for (int64_t c = 0; c < channels; c += limit) {
        const int64_t count = std::min(limit, channels - c);
        chunks.push_back({k, 1, c, count, k * tap_columns + c, round_up(count, interleaved)});
      }
  } else {
    const int64_t most = std::max<int64_t>(1, limit / std::max<int64_t>(1, tap_columns));
    const int64_t count = (s.taps() + most - 1) / most;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t first = i * s.taps() / count, end = (i + 1) * s.taps() / count;
      chunks.push_back({first, end - first, 0, channels, first * tap_columns, tap_columns});
    }
  }
  return chunks;
}

namespace {

constexpr int64_t kTilePixels = 144;
constexpr int64_t kChunkBytes = 1024;  // of a row of columns

// T is what the images, columns and weights lie in memory as, G what is computed in.
template <typename T, typename G = Geometry<T>>
class Forward {
 public:
  Forward(const DeformConv2dShape& s, const Images<const T>& input, const Planes<G>& offset,
          const std::optional<Planes<G>>& mask, const T* weight, const G* bias,
          const Images<T>& out)
      : s_(s),
        input_(input),
        offset_(offset),
        mask_(mask),
        out_(out),
        chunks_(column_chunks(s, kChunkBytes / sizeof(T), kInterleaved<T>)),
        tiles_(s.out_pixels(), kTilePixels),
        weight_(s, weight, gemm_panel<T>()),
        bias_(s.groups * out_row()) {
    bias_.fill_with_zeros();
    for (int64_t o = 0; bias && o < s.out_channels; ++o) {
      const int64_t group = o / s.group_out_channels();
      bias_.data()[group * out_row() + o % s.group_out_channels()] = bias[o];
    }
  }

  void run() {
    const int64_t threads = torch::stable::get_num_threads();
    if (s_.batch >= 4 * threads)
      run_images();
    else
      run_together(std::min(s_.batch, threads));
  }

 private:
  // Each thread has images of its own, so that none waits for another.
  void run_images() {
    parallel_for(0, s_.batch, 1, [&](int64_t begin, int64_t end) {
      RingedImages<T> image(s_, 1);
      for (int64_t n = begin; n < end; ++n) {
        copy_rows(image, n, 0, s_.height);
        run_tiles(image, n, 0, tiles_.count);
      }
    });
  }

  // Few images: the threads share the tiles of some at a time.
  void run_together(int64_t at_once) {
    RingedImages<T> images(s_, at_once);
    for (int64_t n = 0; n < s_.batch; n += at_once) {
      const int64_t count = std::min(at_once, s_.batch - n);
      parallel_for(0, count * s_.height, 64,
                   [&](int64_t begin, int64_t end) { copy_rows(images, n, begin, end); });
      parallel_for(0, count * tiles_.count, 1,
                   [&](int64_t begin, int64_t end) { run_tiles(images, n, begin, end); });
    }
  }

  void copy_rows(RingedImages<T>& images, int64_t first_image, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      images.copy_row_from(input_, first_image + i / s_.height, i / s_.height, i % s_.height);
  }

  int64_t out_row() const { return round_up(s_.group_out_channels(), gemm_panel<T>()); }

  // Whether the product can write where its result belongs.
  bool writes_in_place() const {
    return std::is_same_v<T, G> && out_.channels_last() && out_row() == s_.group_out_channels();
  }

  void run_tiles(const RingedImages<T>& images, int64_t first_image, int64_t begin, int64_t end) {
    TapReader<G> reader(s_, offset_, mask_, tiles_.size);
    int64_t widest = 0;
    for (const auto& chunk : chunks_) widest = std::max(widest, chunk.columns());
    Scratch<T> columns(tiles_.size * columns_row<T>(widest));
    Scratch<G> sums(writes_in_place() ? 0 : tiles_.size * out_row());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slot = i / tiles_.count, tile = i % tiles_.count;
      const int64_t first = tiles_.begin(tile), pixels = tiles_.length(tile);
      reader.start(first_image + slot, first, pixels);
      for (int64_t group = 0; group < s_.groups; ++group) {
        T* out = out_.image(first_image + slot) + first * out_.pixel_stride +
                 group * s_.group_out_channels() * out_.channel_stride;
        G* to = sums.data();
        int64_t to_row = out_row();
        if constexpr (std::is_same_v<T, G>)
          if (writes_in_place()) to = out, to_row = s_.out_channels;
        const G* init = bias_.data() + group * out_row();
        int64_t init_row = 0;
        for (const auto& chunk : chunks_) {
          const int64_t row = columns_row<T>(chunk.columns());
          reader.gather(images, slot, group, chunk, columns.data(), row);
          weight_.multiply(group, chunk.first_column, chunk.columns(), columns.data(), row, pixels,
                           init, init_row, to, to_row);
          init = to, init_row = to_row;
        }
        if (!writes_in_place()) store(to, out, pixels);
      }
    }
  }

  void store(const G* sums, T* out, int64_t pixels) {
    const auto& kernel = simd::transpose_kernels().of(G{}, T{});
    const int64_t channels = s_.group_out_channels();
    if (out_.channels_last())
      kernel.copy(sums, out_row(), out, s_.out_channels, pixels, channels);
    else
      kernel.run(sums, out_row(), out, out_.channel_stride, pixels, channels);
  }

  const DeformConv2dShape s_;
  const Images<const T> input_;
  const Planes<G> offset_;
  const std::optional<Planes<G>> mask_;
  const Images<T> out_;
  const std::vector<ColumnChunk> chunks_;
  const PixelTiles tiles_;
  const PackedWeight<T> weight_;
  Scratch<G> bias_;
};

// bf16 stays bf16 where the processor multiplies it; else 16-bit types are computed in fp32.
ScalarType forward_dtype(const Tensor& input) {
  const bool is_native =
      input.scalar_type() == ScalarType::BFloat16 && simd::bf16_gemm_kernel() != nullptr;
  return is_native ? ScalarType::BFloat16 : compute_dtype(input);
}

template <typename F>
void with_forward_type(const Tensor& input, F&& f) {
  if (input.scalar_type() == ScalarType::BFloat16)
    f(simd::BFloat16{});
  else
    with_compute_type(input, f);
}

Tensor deform_conv2d(const Tensor& input_, const Tensor& offset_, const Tensor& weight_,
                     const std::optional<Tensor>& bias_, std::vector<int64_t> stride,
                     std::vector<int64_t> padding, std::vector<int64_t> dilation,
                     const std::optional<Tensor>& mask_) {
  const auto s = checked_shape(input_, offset_, weight_, mask_, stride, padding, dilation);
  STD_TORCH_CHECK(!bias_ || bias_->numel() == s.out_channels,
                  "deform_conv2d: expected one bias per output channel");
  const auto dtype = forward_dtype(input_), geometry = compute_dtype(input_);
  const auto input = dense_images(input_, dtype), offset = dense_planes(offset_, geometry);
  const auto weight = contiguous(to(weight_, dtype));
  std::optional<Tensor> mask, bias;
  if (mask_) mask = dense_planes(*mask_, geometry);
  if (bias_) bias = contiguous(to(*bias_, geometry));
  auto out = empty_images(input, s.batch, s.out_channels, s.out_height, s.out_width,
                          is_channels_last(input));
  if (out.numel() > 0)
    with_forward_type(input, [&](auto zero) {
      using T = decltype(zero);
      using G = Geometry<T>;
      std::optional<Planes<G>> masks;
      if (mask) masks = read_planes<G>(*mask);
      Forward<T>(s, read_images<T>(input), read_planes<G>(offset), masks,
                 static_cast<const T*>(weight.data_ptr()),
                 bias ? bias->const_data_ptr<G>() : nullptr, write_images<T>(out))
          .run();
    });
  return to(out, input_.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) { m.impl("deform_conv2d", TORCH_BOX(&deform_conv2d)); }

}  // namespace dynamask
