#include "cpu/simd/deform_corners.h"
#include "cpu/simd/shuffle.h"

namespace dynamask::simd::DYNAMASK_VARIANT {
namespace {

// 32 channels in bf16 as two vectors of fp32: those of even number, and those of odd number.
struct Channels {
  Vec<float> even, odd;
};

DYNAMASK_INLINE Channels load_channels(const BFloat16* p) {
  const auto pairs = (Bits32)_mm512_loadu_si512(p);
  return {(Vec<float>)(pairs << 16), (Vec<float>)(pairs & 0xffff0000)};
}

DYNAMASK_INLINE void store_channels(BFloat16* p, Channels x) {
  const auto halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)x.odd, (__m512)x.even);
  const __m512i turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(turns, halves));
}

void sample(DeformReads<float> reads, int64_t pixels, DeformImage<const BFloat16> image,
            BFloat16* out, int64_t out_row) {
  for (int64_t p = 0; p < pixels; ++p) {
    const auto from = corners_at(image, reads.pixel[p]);
    const auto w0 = splat(reads.weight[0][p]), w1 = splat(reads.weight[1][p]);
    const auto w2 = splat(reads.weight[2][p]), w3 = splat(reads.weight[3][p]);
    const auto mix = [&](auto a, auto b, auto c, auto d) __attribute__((always_inline)) {
      return fma<float>(w3, d, fma<float>(w2, c, fma<float>(w1, b, w0 * a)));
    };
    for (int64_t c = 0; c < image.count; c += 32) {
      const auto a = load_channels(from.top_left + c), b = load_channels(from.top_right + c);
      const auto d = load_channels(from.bottom_left + c), e = load_channels(from.bottom_right + c);
      store_channels(out + p * out_row + c,
                     {mix(a.even, b.even, d.even, e.even), mix(a.odd, b.odd, d.odd, e.odd)});
    }
  }
}

}  // namespace

extern const Bf16DeformConv2dKernel bf16_deform_conv2d_kernel;
const Bf16DeformConv2dKernel bf16_deform_conv2d_kernel = {&sample};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
