"""What the best possible mask head could reach with a grid of a given size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynamask import rle
from dynamask.ops import Polygons, RaggedMasks, encode_masks, mask_targets

MASK_SIZES = (14, 28, 56, 112)


def oracle_iou(
    outlines: Polygons,
    masks: Sequence[dict[str, Any]],
    boxes: Tensor,
    sizes: Sequence[int] = MASK_SIZES,
) -> Tensor:
    """IoU with the true mask after a round trip through a grid: target, then paste.

    The targets are those the model is trained on and the paste is that of its predictions, so this
    is the upper limit of a head that gets boxes, classes and every cell of its grid right.

    Args:
        outlines: True outlines of G instances in pixels.
        masks: The same as COCO run lengths; ``size`` is the size of the image.
        boxes: True boxes (x0, y0, x1, y1) in pixels [G, 4].
        sizes: Sides of the grids.

    Returns:
        IoU [G, len(sizes)] float32.
    """
    iou = torch.zeros(len(masks), len(sizes))
    for column, targets in enumerate(mask_targets(outlines, boxes, None, tuple(sizes))):
        for row, (target, truth) in enumerate(zip(targets, masks)):
            height, width = truth["size"]
            grid = RaggedMasks.of([target.float()])
            pasted = encode_masks(grid, boxes[row : row + 1], (height, width))
            iou[row, column] = float(rle.iou(pasted, [truth])[0, 0])
    return iou


def needed_size(iou: Tensor, tolerance: float = 0.05) -> Tensor:
    """Column of the smallest grid whose IoU is within ``tolerance`` of the best [G] int64."""
    good = iou >= iou.amax(1, keepdim=True) - tolerance
    return good.int().argmax(1)
