"""The operators: each a function with the signature of torchvision's where torchvision has one."""

from dynamask import _library, _triton  # noqa: F401  (loads the kernels)
from dynamask.ops.bucket_rois import Buckets, bucket_rois
from dynamask.ops.class_logits import class_logits
from dynamask.ops.deform_conv2d import DeformConv2d, deform_conv2d
from dynamask.ops.edge_targets import block_targets, edge_targets
from dynamask.ops.encode_masks import encode_masks
from dynamask.ops.feature_aggregation import FeatureAggregationWeights, feature_aggregation
from dynamask.ops.grouped_mask_head import grouped_mask_head
from dynamask.ops.mask_edge_loss import mask_edge_loss
from dynamask.ops.mask_targets import mask_targets
from dynamask.ops.multiscale_roi_align import MultiScaleRoIAlign, multiscale_roi_align
from dynamask.ops.nms import batched_nms, batched_nms_fixed, nms
from dynamask.ops.paste_masks import PackedMasks, paste_masks
from dynamask.ops.polygons import Polygons
from dynamask.ops.ragged_masks import RaggedMasks
from dynamask.ops.roi_align import RoIAlign, roi_align
from dynamask.ops.winograd_conv2d import winograd_conv2d, winograd_conv2d_weight

_triton.register()  # over the seats that the operators above have taken

__all__ = [
    "Buckets",
    "DeformConv2d",
    "FeatureAggregationWeights",
    "MultiScaleRoIAlign",
    "PackedMasks",
    "Polygons",
    "RaggedMasks",
    "RoIAlign",
    "batched_nms",
    "batched_nms_fixed",
    "block_targets",
    "bucket_rois",
    "class_logits",
    "deform_conv2d",
    "edge_targets",
    "encode_masks",
    "feature_aggregation",
    "grouped_mask_head",
    "mask_edge_loss",
    "mask_targets",
    "multiscale_roi_align",
    "nms",
    "paste_masks",
    "roi_align",
    "winograd_conv2d",
    "winograd_conv2d_weight",
]
