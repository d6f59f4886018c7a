#include "ops/feature_aggregation.h"

#include "cpu/feature_aggregation.h"

namespace dynamask {
namespace {

constexpr int64_t kTilePixels = 168;
constexpr int64_t kChunkBytes = 1024;  // of a row of columns

// T is what images, columns and weights lie in memory as, G what is computed in. x and the level
// are rows of channels.
template <typename T, typename G = Geometry<T>>
class Forward {
 public:
  Forward(const FeatureAggregationShape& s, const Convolutions<T>& convolutions, const T* x,
          const T* level, const G* rois, G scale, const Images<T>& out)
      : s_(s),
        conv_(convolutions),
        x_(x),
        level_(level),
        rois_(rois),
        scale_(scale),
        out_(out),
        kernel_(feature_aggregation_kernel<T>()),
        chunks_(column_chunks(convolutions.align.shape, kChunkBytes / sizeof(T), kInterleaved<T>)),
        tiles_(s.out_height(), s.out_width(), kTilePixels),
        slots_(std::min<int64_t>(s.rois, torch::stable::get_num_threads())),
        reduced_(slots_ * s.pixels() * convolutions.reduce.out_row),
        pair_(pair_shape(s), slots_),
        fused_(convolutions.align.shape, slots_) {}

  // Each thread takes whole RoIs, so that what they are about stays in its cache; all threads share
  // out the tiles of those left over.
  void run() {
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t whole = s_.rois / threads * threads;
    parallel_for(0, whole ? threads : 0, 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot)
        for (int64_t roi = slot; roi < whole; roi += threads) run(roi, slot, 1);
    });
    run(whole, 0, s_.rois - whole);
  }

 private:
  // Some rows of the output of a RoI, and which of the images are its own.
  struct Tile {
    int64_t roi, slot, y0, y1;
  };
  using Step = void (Forward::*)(const Tile& tile, Workspace<T>& work);

  void run(int64_t first_roi, int64_t first_slot, int64_t count) {
    const PixelTiles low(s_.pixels(), kTilePixels);
    parallel_for(0, count * low.count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        reduce(first_roi + i / low.count, first_slot + i / low.count, low, i % low.count);
    });
    int64_t widest = s_.out_channels;
    for (const auto& chunk : chunks_) widest = std::max(widest, columns_row<T>(chunk.columns()));
    const int64_t products = std::max(conv_.project.out_row, conv_.offset2.out_row);
    // each step reads what the one before it wrote of any tile
    for (const Step step : {&Forward::gather_pair, &Forward::align, &Forward::attend})
      parallel_for(0, count * tiles_.count, 1, [&](int64_t begin, int64_t end) {
        Workspace<T> work(tiles_.size * tiles_.width, widest, products, s_.offsets());
        for (int64_t i = begin; i < end; ++i) {
          const int64_t roi = i / tiles_.count, tile = i % tiles_.count;
          (this->*step)({first_roi + roi, first_slot + roi, tiles_.begin(tile), tiles_.end(tile)},
                        work);
        }
      });
  }

  static DeformConv2dShape pair_shape(const FeatureAggregationShape& s) {
    DeformConv2dShape pair{};
    pair.channels = 2 * s.out_channels, pair.height = s.out_height(), pair.width = s.out_width();
    return pair;
  }

  G* reduced(int64_t slot) { return reduced_.data() + slot * s_.pixels() * conv_.reduce.out_row; }

  // Row y, from `channel` on. In a pair x begins at channel 0, p at channel C'.
  static simd::PixelRow<T> pixels(RingedImages<T>& images, int64_t slot, int64_t y,
                                  int64_t channel) {
    const auto image = images.channels(slot, channel, 0);
    return {image.data + (y + 1) * image.row + image.channels, image.channels};
  }

  // The first C' channels, to sample from.
  simd::DeformImage<const T> read(const RingedImages<T>& images, int64_t slot) const {
    return images.channels(slot, 0, s_.out_channels);
  }

  void reduce(int64_t roi, int64_t slot, const PixelTiles& tiles, int64_t tile) {
    const int64_t first = tiles.begin(tile);
    const T* x = x_ + (roi * s_.pixels() + first) * s_.channels;
    conv_.reduce.run(tiles.length(tile), {x, s_.channels},
                     reduced(slot) + first * conv_.reduce.out_row);
  }

  // Rows y0 to y1 of x doubled and of p, side by side.
  void gather_pair(const Tile& tile, Workspace<T>& work) {
    const auto [roi, slot, y0, y1] = tile;
    const int64_t c = s_.out_channels, width = s_.out_width();
    crop(roi, y0, y1, work);
    conv_.project.run((y1 - y0) * width, {work.columns.data(), c}, work.products.data());
    const int64_t in_pixel = conv_.reduce.out_row, p_pixel = conv_.project.out_row;
    for (int64_t y = y0; y < y1; ++y) {
      const DoubledPixel from(y, s_.height);
      const G* in = reduced(slot);
      kernel_.upsample_row({in + from.near * s_.width * in_pixel, in_pixel},
                           {in + from.far * s_.width * in_pixel, in_pixel}, s_.width, c,
                           pixels(pair_, slot, y, 0));
      kernel_.relu({work.products.data() + (y - y0) * width * p_pixel, p_pixel}, {}, width, c,
                   pixels(pair_, slot, y, c));
    }
  }

  // Rows y0 to y1 of the RoI in the level, as rows of channels.
  void crop(int64_t roi, int64_t y0, int64_t y1, Workspace<T>& work) {
    const int64_t c = s_.out_channels, row = s_.out_width() * c;
    const G* box = rois_ + 5 * roi;
    const int64_t image = roi_batch_index(box[0], s_.batch);
    if (image < 0) {
      std::fill_n(work.columns.data(), (y1 - y0) * row, T{});
      return;
    }
    if (work.roi != roi) {
      const auto axis = [&](int which, int64_t bins, int64_t length) {
        return roi_axis<G>(box[1 + which], box[3 + which], scale_, bins, length, 1, true);
      };
      work.taps_y.pixels_of_bins(axis(1, s_.out_height(), s_.level_height), s_.level_width * c,
                                 row);
      work.taps_x.pixels_of_bins(axis(0, s_.out_width(), s_.level_width), c, c);
      work.roi = roi;
    }
    auto y = work.taps_y.view();
    y.count = y1 - y0, y.first += y0;  // their places are counted from the tile
    simd::roi_align_kernels().pool(T{}).rows(level_ + image * s_.level_height * s_.level_width * c,
                                             y, work.taps_x.view(), work.columns.data(), c);
  }

  void align(const Tile& tile, Workspace<T>& work) {
    const auto [roi, slot, y0, y1] = tile;
    const int64_t c = s_.out_channels, width = s_.out_width();
    const auto pair = read(pair_, slot);
    conv_.offset1.run(y1 - y0, width, pair.data + y0 * pair.row, pair.row, work.planes.data());
    deform(conv_.align, pair, y0, y1, work);
    for (int64_t y = y0; y < y1; ++y) {
      const auto p = pixels(pair_, slot, y, c);
      kernel_.relu(
          {work.products.data() + (y - y0) * width * conv_.align.out_row, conv_.align.out_row},
          {p.data, p.pixel}, width, c, pixels(fused_, slot, y, 0));
    }
  }

  void attend(const Tile& tile, Workspace<T>& work) {
    const auto [roi, slot, y0, y1] = tile;
    const int64_t c = s_.out_channels, width = s_.out_width(), count = (y1 - y0) * width;
    const auto& conv = conv_.offset2;
    for (int64_t y = y0; y < y1; ++y) {
      const auto f = pixels(fused_, slot, y, 0);
      conv.run(width, {f.data, f.pixel}, work.products.data() + (y - y0) * width * conv.out_row);
    }
    simd::transpose_kernels().of(G{}).run(work.products.data(), conv.out_row, work.planes.data(),
                                          count, count, s_.offsets());
    deform(conv_.attend, read(fused_, slot), y0, y1, work);
    T* to = out_.image(roi) + y0 * width * out_.pixel_stride;
    T* rows = out_.channels_last() ? to : work.columns.data();
    kernel_.relu({work.products.data(), conv_.attend.out_row}, {}, count, c, {rows, c});
    if (!out_.channels_last())
      simd::transpose_kernels().of(T{}).run(rows, c, to, out_.channel_stride, count, c);
  }

  // Rows y0 to y1 of a deformable convolution, from the offsets in work.planes to work.products.
  void deform(const Convolution<T>& conv, const simd::DeformImage<const T>& image, int64_t y0,
              int64_t y1, Workspace<T>& work) {
    work.start(conv.shape, y0, y1);
    const G* init = nullptr;
    for (const auto& chunk : chunks_) {
      const int64_t row = columns_row<T>(chunk.columns());
      for (int64_t k = 0; k < chunk.taps; ++k) gather(conv.shape, image, chunk, k, row, work);
      conv.weight.multiply(0, chunk.first_column, chunk.columns(), work.columns.data(), row,
                           work.tap.pixels, init, conv.out_row, work.products.data(), conv.out_row);
      init = work.products.data();
    }
  }

  // What tap k of a chunk reads, offset group by offset group.
  static void gather(const DeformConv2dShape& s, const simd::DeformImage<const T>& image,
                     const ColumnChunk& chunk, int64_t k, int64_t row, Workspace<T>& work) {
    auto& tap = work.tap;
    const int64_t of_window = chunk.first_tap + k, first = chunk.first_channel;
    tap.tap_y = G(of_window / 3), tap.tap_x = G(of_window % 3);
    for (int64_t c = first; c < first + chunk.channels;) {
      const int64_t group = c / s.offset_group_channels();
      const int64_t end = std::min(first + chunk.channels, (group + 1) * s.offset_group_channels());
      tap.offset_y = work.planes.data() + 2 * (group * 9 + of_window) * tap.pixels;
      tap.offset_x = tap.offset_y + tap.pixels;
      simd::deform_conv2d_kernels().of(G{}).locate(tap, work.reads);
      // groups come in the order of their columns: what one writes too far the next overwrites
      sample_kernel<T>()(work.reads, tap.pixels,
                         {image.data + c, image.row, image.channels, end - c},
                         work.columns.data() + k * chunk.tap_columns + c - first, row);
      c = end;
    }
  }

  const FeatureAggregationShape s_;
  const Convolutions<T>& conv_;
  const T *x_, *level_;
  const G* rois_;
  const G scale_;
  const Images<T> out_;
  const simd::FeatureAggregationKernel<T>& kernel_;
  const std::vector<ColumnChunk> chunks_;
  const RowTiles tiles_;
  const int64_t slots_;
  // per slot: reduce(x), [x doubled, p] and a + p
  Scratch<G> reduced_;
  RingedImages<T> pair_, fused_;
};

FeatureAggregationShape feature_aggregation_shape(
    const Tensor& x, const Tensor& level, const Tensor& rois, const Tensor& reduce_weight,
    const Tensor& reduce_bias, const Tensor& project_weight, const Tensor& project_bias,
    const Tensor& offset1_weight, const Tensor& offset1_bias, const Tensor& align_weight,
    const Tensor& offset2_weight, const Tensor& offset2_bias, const Tensor& attend_weight) {
  // the Python face says in words what does not fit; here it only must not run
  const auto require = [](bool fits) {
    STD_TORCH_CHECK(fits, "feature_aggregation: expected shapes that fit together");
  };
  require(x.dim() == 4 && level.dim() == 4 && rois.dim() == 2 && offset1_weight.dim() == 4);
  require(reduce_weight.dim() == 4);
  FeatureAggregationShape s{};
  s.rois = x.size(0), s.channels = x.size(1), s.height = x.size(2), s.width = x.size(3);
  s.out_channels = reduce_weight.size(0), s.offset_groups = offset1_weight.size(0) / 18;
  s.batch = level.size(0), s.level_height = level.size(2), s.level_width = level.size(3);
  require(level.size(1) == s.out_channels && rois.size(0) == s.rois && rois.size(1) == 5);
  require(s.offset_groups > 0 && s.out_channels % s.offset_groups == 0);
  const auto fits = [](const Tensor& w, int64_t out, int64_t in, int64_t kernel) {
    return w.dim() == 4 && w.size(0) == out && w.size(1) == in && w.size(2) == kernel &&
           w.size(3) == kernel;
  };
  const int64_t c = s.out_channels;
  require(fits(reduce_weight, c, s.channels, 1) && fits(project_weight, c, c, 1));
  require(fits(offset1_weight, s.offsets(), 2 * c, 3) && fits(align_weight, c, c, 3));
  require(fits(offset2_weight, s.offsets(), c, 1) && fits(attend_weight, c, c, 3));
  require(reduce_bias.numel() == c && project_bias.numel() == c);
  require(offset1_bias.numel() == s.offsets() && offset2_bias.numel() == s.offsets());
  // pixels are counted in 32 bits, and rows in floats
  require((s.out_height() + 3) * (s.out_width() + 2) <= INT32_MAX &&
          std::max(s.out_height(), s.out_width()) < (1 << 24));
  return s;
}

// bf16 stays bf16 where the processor multiplies it, in pairs; else 16-bit types are computed in
// fp32.
ScalarType image_dtype(const FeatureAggregationShape& s, const Tensor& x) {
  const bool is_native = x.scalar_type() == ScalarType::BFloat16 && simd::bf16_gemm_kernel() &&
                         s.channels % 2 == 0 && s.out_channels % 2 == 0;
  return is_native ? ScalarType::BFloat16 : compute_dtype(x);
}

Tensor feature_aggregation(const Tensor& x_, const Tensor& level_, const Tensor& rois_,
                           double spatial_scale, const std::optional<Tensor>& count,
                           const Tensor& reduce_weight, const Tensor& reduce_bias,
                           const Tensor& project_weight, const Tensor& project_bias,
                           const Tensor& offset1_weight, const Tensor& offset1_bias,
                           const Tensor& align_weight, const Tensor& offset2_weight,
                           const Tensor& offset2_bias, const Tensor& attend_weight) {
  auto s = feature_aggregation_shape(x_, level_, rois_, reduce_weight, reduce_bias, project_weight,
                                     project_bias, offset1_weight, offset1_bias, align_weight,
                                     offset2_weight, offset2_bias, attend_weight);
  const auto dtype = image_dtype(s, x_), geometry = compute_dtype(x_);
  const auto rows = [&](const Tensor& t) {
    return torch::stable::contiguous(to(t, dtype), torch::headeronly::MemoryFormat::ChannelsLast);
  };
  const auto dense = [](const Tensor& t, ScalarType type) { return contiguous(to(t, type)); };
  const auto images = [&](const Tensor& like) {
    return empty_images(like, s.rois, s.out_channels, s.out_height(), s.out_width(),
                        is_channels_last(x_));
  };
  const auto all = images(x_);
  if (count) s.rois = std::clamp<int64_t>(*count->const_data_ptr<int64_t>(), 0, s.rois);
  if (s.rois == 0 || all.numel() == 0) return all;
  const auto first = [&](Tensor t) { return torch::stable::narrow(t, 0, 0, s.rois); };
  const auto x = rows(first(x_)), level = rows(level_), rois = dense(first(rois_), geometry);
  auto out = first(all);
  const auto computed = dtype == x_.scalar_type() ? out : images(x);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    using G = Geometry<T>;
    const auto pointwise = [&](const Tensor& weight, const Tensor& bias) {
      const auto b = dense(bias, geometry);
      return Convolution<T>(dense(weight, dtype), &b, s.out_height(), s.out_width());
    };
    const auto deformable = [&](const Tensor& weight) {
      return Convolution<T>(dense(weight, dtype), nullptr, s.out_height(), s.out_width(),
                            s.offset_groups);
    };
    const Convolutions<T> convolutions{
        pointwise(reduce_weight, reduce_bias),
        pointwise(project_weight, project_bias),
        NarrowConvolution<T>(dense(offset1_weight, dtype), dense(offset1_bias, geometry)),
        deformable(align_weight),
        pointwise(offset2_weight, offset2_bias),
        deformable(attend_weight)};
    Forward<T>(s, convolutions, static_cast<const T*>(x.data_ptr()),
               static_cast<const T*>(level.data_ptr()), rois.template const_data_ptr<G>(),
               G(spatial_scale), write_images<T>(computed))
        .run();
  };
  if (dtype == ScalarType::BFloat16)
    run(simd::BFloat16{});
  else
    with_compute_type(x, run);
  if (dtype != x_.scalar_type()) torch::stable::copy_(out, computed);
  return all;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynamask, CPU, m) {
  m.impl("feature_aggregation", TORCH_BOX(&feature_aggregation));
}

}  // namespace dynamask
