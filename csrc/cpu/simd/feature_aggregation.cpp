#include "cpu/simd/feature_aggregation_rows.h"

namespace dynamask::simd::DYNAMASK_VARIANT {

extern const FeatureAggregationKernels feature_aggregation_kernels;
const FeatureAggregationKernels feature_aggregation_kernels = {kFeatureAggregationKernel<float>,
                                                               kFeatureAggregationKernel<double>};

}  // namespace dynamask::simd::DYNAMASK_VARIANT
