#include "cpu/simd/feature_aggregation_rows.h"

namespace dynamask::simd::DYNAMASK_VARIANT {

template <>
struct Products<BFloat16> {
  static constexpr int64_t kCount = 2 * kLanes<float>;
  using Vector = __m512bh;
  DYNAMASK_INLINE Vector read(const BFloat16* p) { return (Vector)_mm512_loadu_si512(p); }
  DYNAMASK_INLINE Vector read_some(const BFloat16* p, int64_t n) {
    return (Vector)_mm512_maskz_loadu_epi16((1u << n) - 1, p);
  }
  DYNAMASK_INLINE Vec<float> add(Vector a, Vector b, Vec<float> sum) {
    return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, a, b);
  }
};

extern const FeatureAggregationKernel<BFloat16> bf16_feature_aggregation_kernel;
const FeatureAggregationKernel<BFloat16> bf16_feature_aggregation_kernel =
    kFeatureAggregationKernel<BFloat16>;

}  // namespace dynamask::simd::DYNAMASK_VARIANT
