// The tensors that paste_masks and encode_masks take, as their kernels read them.

#pragma once

#include <array>
#include <optional>
#include <string>

#include "cuda/pasted_mask.h"
#include "cuda/tensor.h"

namespace dynamask::cuda {

// An operator of torch that the stable ABI has no function for.
template <typename... Arguments>
Tensor call(const char* name, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(arguments)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// Along dimension 0 of an int64 tensor [N].
inline Tensor running_sum(const Tensor& values) {
  return call("aten::cumsum", values, int64_t{0}, std::optional<ScalarType>());
}

// The last entry, on the host: waits for the device.
inline int64_t last(const Tensor& values) {
  if (values.numel() == 0) return 0;
  auto all = values;
  const auto entry =
      torch::stable::to(torch::stable::narrow(all, 0, values.numel() - 1, 1),
                        torch::stable::Device(torch::headeronly::DeviceType::CPU, -1));
  return *entry.const_data_ptr<int64_t>();
}

struct PasteTensors {
  Device device;
  Tensor values, sizes, ends, boxes;
  PasteMasks masks;

  PasteTensors(const Tensor& values_, const Tensor& sizes_, const Tensor& boxes_, int64_t height,
               int64_t width, double threshold, const std::string& mode)
      : device(boxes_),
        values(contiguous(to(values_, ScalarType::Float))),
        sizes(contiguous(to(sizes_, ScalarType::Long))),
        ends(running_sum(call("aten::square", sizes))),
        boxes(contiguous(to(boxes_, ScalarType::Float))) {
    STD_TORCH_CHECK(mode == "detectron2" || mode == "torchvision",
                    "paste_masks: expected mode detectron2 or torchvision, got ", mode);
    const int64_t count = sizes.numel();
    STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(0) == count && boxes.size(1) == 4,
                    "paste_masks: expected boxes [N, 4] for ", count, " masks");
    masks = {values.const_data_ptr<float>(),
             sizes.const_data_ptr<int64_t>(),
             ends.const_data_ptr<int64_t>(),
             boxes.const_data_ptr<float>(),
             values.numel(),
             count,
             static_cast<int32_t>(height),
             static_cast<int32_t>(width),
             static_cast<float>(threshold),
             mode == "detectron2" ? PasteMode::detectron2 : PasteMode::torchvision};
  }
};

}  // namespace dynamask::cuda
