// Every operator dynamask adds to PyTorch: the table of contents. The kernels are in cpu/, cuda/
// and ../kernels/; fake kernels and gradients are registered in ../dynamask/ops/.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(dynamask, m) {
  m.def(
      "bucket_rois(Tensor state, int num_states, int[] sizes) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("class_logits(Tensor features, Tensor weight, Tensor? bias, Tensor labels) -> Tensor");
  m.def(
      "deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias, int[] stride, "
      "int[] padding, int[] dilation, Tensor? mask) -> Tensor");
  m.def(
      "deform_conv2d_backward(Tensor grad, Tensor input, Tensor offset, Tensor weight, "
      "Tensor? mask, int[] stride, int[] padding, int[] dilation, bool needs_input, "
      "bool needs_offset, bool needs_weight, bool needs_mask, bool deterministic) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "feature_aggregation(Tensor x, Tensor level, Tensor rois, float spatial_scale, "
      "Tensor? count, Tensor reduce_weight, Tensor reduce_bias, Tensor project_weight, "
      "Tensor project_bias, Tensor offset1_weight, Tensor offset1_bias, Tensor align_weight, "
      "Tensor offset2_weight, Tensor offset2_bias, Tensor attend_weight) -> Tensor");
  m.def(
      "grouped_mask_head(Tensor[] features, Tensor[] weights, Tensor[] biases, Tensor labels, "
      "Tensor state, Tensor order, Tensor mask_offsets) -> Tensor");
  m.def(
      "roi_align(Tensor input, Tensor boxes, SymInt[] output_size, float spatial_scale, "
      "int sampling_ratio, bool aligned) -> Tensor");
  m.def(
      "roi_align_backward(Tensor grad, Tensor boxes, SymInt[] input_size, float spatial_scale, "
      "int sampling_ratio, bool aligned, bool channels_last, bool deterministic) -> Tensor");
  m.def(
      "multiscale_roi_align(Tensor[] features, Tensor boxes, SymInt[] output_size, float[] scales, "
      "int sampling_ratio, bool aligned, str level_rule, float canonical_scale, "
      "int canonical_level) -> Tensor");
  m.def(
      "multiscale_roi_align_sizes(Tensor[] features, Tensor boxes, SymInt[] output_sizes, "
      "float[] scales, int sampling_ratio, bool aligned, str level_rule, float canonical_scale, "
      "int canonical_level) -> Tensor[]");
  m.def(
      "multiscale_roi_align_backward(Tensor grad, Tensor boxes, SymInt batch, SymInt[] sizes, "
      "float[] scales, int sampling_ratio, bool aligned, str level_rule, float canonical_scale, "
      "int canonical_level, bool channels_last, bool deterministic) -> Tensor[]");
  m.def("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor");
  m.def("batched_nms(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor");
  m.def(
      "batched_nms_fixed(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold, "
      "int max_out) -> (Tensor, Tensor)");
  m.def(
      "paste_masks(Tensor masks, Tensor sizes, Tensor boxes, int height, int width, "
      "float threshold, str mode) -> Tensor");
  m.def(
      "paste_masks_packed(Tensor masks, Tensor sizes, Tensor boxes, int height, int width, "
      "float threshold, str mode) -> (Tensor, Tensor, Tensor)");
  m.def(
      "encode_masks(Tensor masks, Tensor sizes, Tensor boxes, int height, int width, "
      "float threshold, str mode) -> (Tensor, Tensor)");
  m.def("mask_targets(Tensor masks, Tensor boxes, Tensor index, int[] sizes) -> Tensor[]");
  m.def(
      "mask_targets_polygons(Tensor vertices, Tensor rings, Tensor instances, Tensor boxes, "
      "Tensor index, int[] sizes) -> Tensor[]");
  m.def(
      "mask_targets_rle(Tensor counts, Tensor starts, Tensor image_sizes, Tensor boxes, "
      "Tensor index, int[] sizes) -> Tensor[]");
  m.def("edge_targets(Tensor[] masks, bool union) -> Tensor[]");
  m.def("edge_targets_blocks(Tensor[] masks, int width) -> Tensor[]");
  m.def(
      "mask_edge_loss(Tensor[] mask_logits, Tensor[] mask_targets, Tensor[] edge_logits, "
      "Tensor[] edge_targets, Tensor? labels, bool needs_mask, bool needs_edge) "
      "-> (Tensor, Tensor, Tensor[], Tensor[])");
  m.def(
      "mask_edge_loss_backward(Tensor[] grads, Tensor[] errors, Tensor? labels, "
      "SymInt[] num_classes) -> Tensor[]");
  m.def("winograd_conv2d(Tensor input, Tensor weight, Tensor bias, bool relu) -> Tensor");
  m.def("winograd_conv2d_weight(Tensor weight) -> Tensor");
}
