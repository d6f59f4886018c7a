from collections.abc import Sequence

import torch
from torch import Tensor

from dynamask.ops._check import check_dims, check_float, check_int, check_range, check_size
from dynamask.ops.polygons import Polygons

MASK_SIZES = (14, 28, 56, 112)


def mask_targets(
    masks: Polygons | Tensor,
    boxes: Tensor,
    index: Tensor | None = None,
    sizes: Sequence[int] = MASK_SIZES,
) -> list[Tensor]:
    """What a mask head shall answer: the instance of each box, cropped, in every mask size at once.

    Outlines follow COCO's convention: a ring is moved into the S x S grid of its box by
    ``(x - x0) * (S / max(x1 - x0, 1))`` (y alike) in fp64 and rasterised to the same bits as
    ``frPyObjects``, ``merge`` and ``decode`` of pycocotools, which is what detectron2 and mmdet do.
    The work depends on S and the number of corners, not on how far away they are.

    Args:
        masks: The G instances, in the pixels of the boxes: outlines (:class:`Polygons`).
        boxes: Boxes [R, 4] as (x0, y0, x1, y1) in pixels; (0, 0) is the top left corner of the
            image.
        index: Which instance each box is matched to [R], integers in [0, G). None: box r is
            matched to instance r.
        sizes: Sides S of the targets in pixels, each at least 1.

    Returns:
        For each size a tensor [R, S, S] uint8 of 0 and 1. A row is zero where the box or the
        outline is not finite.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape does not fit, or on the CPU an index is out of range.
    """
    op = "mask_targets"
    check_dims(op, "boxes", boxes, "R 4")
    check_float(op, "boxes", boxes)
    for size in sizes:
        if not 1 <= size <= 1 << 14:
            raise ValueError(f"{op}: expected sizes in [1, 16384], got {size}")
    if not isinstance(masks, Polygons):
        raise TypeError(f"{op}: expected masks as Polygons, got {type(masks).__name__}")
    instances = masks.instances.shape[0] - 1
    if index is None:
        check_size(op, "boxes, one per instance,", instances, boxes.shape[0])
        index = torch.arange(boxes.shape[0], device=boxes.device)
    check_dims(op, "index", index, "R")
    check_int(op, "index", index)
    check_size(op, "values in index", boxes.shape[0], index.shape[0])
    check_range(op, "index", index, instances)
    return torch.ops.dynamask.mask_targets_polygons(*masks, boxes, index, sizes)


@torch.library.register_fake("dynamask::mask_targets_polygons")
def _(vertices, rings, instances, boxes, index, sizes):
    return [boxes.new_empty(boxes.shape[0], s, s, dtype=torch.uint8) for s in sizes]
