"""Stand-ins, slow but right, for operators on their way. This file goes when the last has come."""

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import (  # noqa: F401
    MultiScaleRoIAlign,
    RoIAlign,
    batched_nms,
    nms,
    roi_align,
)


def multiscale_roi_align(
    features,
    boxes,
    output_size,
    scales,
    sampling_ratio=-1,
    aligned=False,
    *,
    level_rule="torchvision",
    canonical_scale=224.0,
    canonical_level=4,
):
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    side = ((boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2])).clamp(min=0).sqrt()
    if level_rule == "torchvision":
        level = torch.floor(canonical_level + torch.log2(side / canonical_scale) + 1e-6)
    else:
        level = torch.floor(canonical_level + torch.log2(side / canonical_scale + 1e-8))
    first = round(-np.log2(scales[0]))
    level = level.clamp(first, first + len(scales) - 1).long() - first
    out = boxes.new_zeros(boxes.shape[0], features[0].shape[1], *size)
    for k, (feature, scale) in enumerate(zip(features, scales)):
        at = (level == k).nonzero().flatten()
        pooled = roi_align(feature, boxes[at], size, scale, sampling_ratio, aligned)
        out = out.index_put((at,), pooled.to(out.dtype))
    return out


def batched_nms_fixed(boxes, scores, idxs, iou_threshold, max_out):
    keep = batched_nms(boxes, scores, idxs, iou_threshold)[:max_out]
    out = torch.zeros(max_out, dtype=torch.int64)
    out[: len(keep)] = keep
    return out, torch.arange(max_out) < len(keep)


def paste_masks(masks, boxes, image_size, threshold=0.5, *, out="dense", mode="detectron2"):
    from dynamask.ops.ragged_masks import RaggedMasks

    height, width = image_size
    dense = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    ys, xs = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    for n, (mask, (x0, y0, x1, y1)) in enumerate(zip(RaggedMasks.of(masks).split(), boxes)):
        gy, gx = (ys - y0) / (y1 - y0) * 2 - 1, (xs - x0) / (x1 - x0) * 2 - 1
        grid = torch.stack(torch.broadcast_tensors(gx[None, :], gy[:, None]), -1)[None]
        dense[n] = (
            F.grid_sample(mask[None, None].float(), grid, align_corners=False)[0, 0] >= threshold
        )
    return dense


def encode_masks(masks, boxes, image_size, threshold=0.5, *, mode="detectron2"):
    from pycocotools import mask as coco

    dense = paste_masks(masks, boxes, image_size, threshold)
    return [coco.encode(np.asfortranarray(m.numpy().astype(np.uint8))) for m in dense]
