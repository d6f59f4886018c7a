"""Which boxes of an image stay, in shapes that depend on shapes alone."""

from typing import NamedTuple

import torch
from torch import Tensor

from dynamask.ops import batched_nms_fixed


class BoxSelection(NamedTuple):
    """The same number of boxes for every image, however many there are.

    Attributes:
        boxes: (x0, y0, x1, y1) in pixels of the batch [B, K, 4], best first.
        scores: Falling [B, K].
        groups: What each box was compared within [B, K] int64.
        valid: False where an image has no further box and the rest is zeros [B, K].
    """

    boxes: Tensor
    scores: Tensor
    groups: Tensor
    valid: Tensor


def select_boxes(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    min_size: float,
    iou_threshold: float,
    kept: int,
) -> BoxSelection:
    """NMS within each group of each image, then the ``kept`` best.

    No shape depends on a value, so the step can be compiled, exported and captured.

    Args:
        boxes: [B, N, 4].
        scores: [B, N]; -inf and NaN mean that there is no such box.
        groups: What each box is compared within [B, N] int64.
        min_size: Boxes thinner than this do not count.
        iou_threshold: Of two overlapping more than this, the better stays.
        kept: K, the boxes of each image that come out.
    """
    size = (boxes[..., 2:] - boxes[..., :2]).amin(-1)
    exists = (size >= min_size) & (scores.abs() < torch.inf)
    ranks = scores.masked_fill(~exists, torch.nan)  # which NMS never keeps
    picked = [batched_nms_fixed(*image, iou_threshold, kept) for image in zip(boxes, ranks, groups)]
    index, valid = (torch.stack(column) for column in zip(*picked))  # [B, K]
    none = ~valid
    return BoxSelection(
        boxes.gather(1, index[..., None].expand(-1, -1, 4)).masked_fill(none[..., None], 0),
        scores.gather(1, index).masked_fill(none, 0),
        groups.gather(1, index).masked_fill(none, 0),
        valid,
    )


def clip(boxes: Tensor, limits: Tensor) -> Tensor:
    """Boxes [B, N, 4] within (0, 0) and the limits of their images [B, 4]."""
    return torch.minimum(boxes.clamp(min=0), limits[:, None])
