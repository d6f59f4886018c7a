// The tensors that all kinds of mask targets share, as their kernels read them.

#pragma once

#include "cuda/target_boxes.h"
#include "cuda/tensor.h"

namespace dynamask::cuda {

inline Tensor to_device_of(const Tensor& like, const Tensor& t) {
  return torch::stable::to(t, like.device());
}

// Allocates the targets [R, S, S] of every size. T is the type of coordinates.
template <typename T>
struct TargetTensors {
  Device device;
  Tensor boxes, index;
  std::vector<Tensor> targets;
  TargetBoxes<T> kernel{};

  TargetTensors(const Tensor& boxes_, const Tensor& index_, int64_t instances,
                const std::vector<int64_t>& sizes)
      : device(boxes_),
        boxes(contiguous(to(boxes_, sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float))),
        index(contiguous(to(to_device_of(boxes_, index_), ScalarType::Long))) {
    STD_TORCH_CHECK(sizes.size() <= kMaxTargetSizes, "mask_targets: expected at most ",
                    kMaxTargetSizes, " sizes, got ", sizes.size());
    kernel.boxes = boxes.template const_data_ptr<T>();
    kernel.index = index.template const_data_ptr<int64_t>();
    kernel.rois = boxes.size(0), kernel.instances = instances;
    kernel.sizes = static_cast<int64_t>(sizes.size());
    for (size_t k = 0; k < sizes.size(); ++k) {
      targets.push_back(empty(boxes, {boxes.size(0), sizes[k], sizes[k]}, ScalarType::Byte));
      kernel.size[k] = static_cast<int32_t>(sizes[k]);
      kernel.out[k] = targets[k].template mutable_data_ptr<uint8_t>();
    }
  }
};

}  // namespace dynamask::cuda
