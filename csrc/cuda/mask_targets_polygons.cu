#include "cuda/mask_target_tensors.h"
#include "cuda/mask_targets_polygons.cuh"

namespace dynamask::cuda {
namespace {

std::vector<Tensor> of_polygons(const Tensor& vertices_, const Tensor& rings_,
                                const Tensor& instances_, const Tensor& boxes, const Tensor& index,
                                std::vector<int64_t> sizes) {
  for (const int64_t size : sizes)
    STD_TORCH_CHECK(size <= kMaxOutlineTarget, "mask_targets: expected sizes of at most ",
                    kMaxOutlineTarget, " for outlines on this device, got ", size);
  const auto vertices = contiguous(to(to_device_of(boxes, vertices_), ScalarType::Float));
  const auto rings = contiguous(to(to_device_of(boxes, rings_), ScalarType::Long));
  const auto instances = contiguous(to(to_device_of(boxes, instances_), ScalarType::Long));
  const TargetTensors<double> given(boxes, index, instances.size(0) - 1, sizes);
  mask_targets_polygons(given.device.stream, given.kernel,
                        {vertices.const_data_ptr<float>(), rings.const_data_ptr<int64_t>(),
                         instances.const_data_ptr<int64_t>(), vertices.size(0), rings.size(0) - 1});
  return given.targets;
}

}  // namespace

DYNAMASK_CUDA_SEATS(m) { m.impl("mask_targets_polygons", TORCH_BOX(&of_polygons)); }

}  // namespace dynamask::cuda
