from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynamask import rle
from dynamask.ops._check import (
    check_device,
    check_dims,
    check_float,
    check_int,
    check_range,
    check_size,
)
from dynamask.ops.polygons import Polygons


def mask_targets(
    masks: Polygons | Tensor | Sequence[Mapping[str, Any]],
    boxes: Tensor,
    index: Tensor | None = None,
    sizes: Sequence[int] = (14, 28, 56, 112),
) -> list[Tensor]:
    """What a mask head shall answer: the instance of each box, cropped, in every mask size at once.

    Outlines follow COCO's convention: a ring is moved into the S x S grid of its box by
    ``(x - x0) * (S / max(x1 - x0, 1))`` (y alike) in fp64 and rasterised to the same bits as by
    ``frPyObjects``, ``merge`` and ``decode`` of pycocotools: the crop of detectron2 and mmdet. Work
    grows with S and the number of corners, not with how far away those are.

    Bitmaps and run-length masks follow ``BitMasks.crop_and_resize`` of detectron2: 1 where
    torchvision's ``roi_align(mask.float(), boxes, S, sampling_ratio=-1, aligned=True)`` is at least
    0.5, to the same bits as on the CPU. No mask is copied per box, nor turned into floats.

    Args:
        masks: The G instances, in the pixels of the boxes: outlines (:class:`Polygons`); bitmaps
            [G, H, W] of bool or uint8, what is not 0 being foreground; or COCO's run-length masks
            ``{"size": [h, w], "counts": bytes}``, each of any image size.
        boxes: Boxes [R, 4] as (x0, y0, x1, y1) in pixels; (0, 0) is the top left corner of the
            image. Outlines take a side below 1 as 1; bitmaps give zeros for a side of 0 or less.
        index: Which instance each box is matched to [R], integers in [0, G). None: box r is
            matched to instance r.
        sizes: Sides S of the targets in pixels, each in [1, 16384].

    Returns:
        For each size a tensor [R, S, S] uint8 of 0 and 1. A row is zero where the box or the
        outline is not finite. There is no gradient.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or device does not fit, a run-length mask is malformed, or on the CPU
            an index is out of range.
    """
    op = "mask_targets"
    check_dims(op, "boxes", boxes, "R 4")
    check_float(op, "boxes", boxes)
    for size in sizes:
        if not 1 <= size <= 1 << 14:
            raise ValueError(f"{op}: expected sizes in [1, 16384], got {size}")
    instances = _count_instances(masks)
    if index is None:
        check_size(op, "boxes, one per instance,", instances, boxes.shape[0])
        index = torch.arange(boxes.shape[0], device=boxes.device)
    check_dims(op, "index", index, "R")
    check_int(op, "index", index)
    check_size(op, "values in index", boxes.shape[0], index.shape[0])
    check_device(op, boxes.device, index=index)
    check_range(op, "index", index, instances)
    boxes = boxes.detach()
    if isinstance(masks, Polygons):
        check_device(op, boxes.device, **masks._asdict())
        return torch.ops.dynamask.mask_targets_polygons(*masks, boxes, index, sizes)
    if isinstance(masks, Tensor):
        check_device(op, boxes.device, masks=masks)
        return torch.ops.dynamask.mask_targets(masks, boxes, index, sizes)
    packed = [part.to(boxes.device) for part in _pack(masks)]
    return torch.ops.dynamask.mask_targets_rle(*packed, boxes, index, sizes)


def _count_instances(masks: Polygons | Tensor | Sequence[Mapping[str, Any]]) -> int:
    op = "mask_targets"
    if isinstance(masks, Polygons):
        check_dims(op, "masks.vertices", masks.vertices, "V 2")
        check_dims(op, "masks.rings", masks.rings, "R+1")
        check_dims(op, "masks.instances", masks.instances, "G+1")
        return masks.instances.shape[0] - 1
    if isinstance(masks, Tensor):
        check_dims(op, "masks", masks, "G H W")
        if masks.dtype not in (torch.bool, torch.uint8):
            raise TypeError(f"{op}: expected masks of bool or uint8, got {masks.dtype}")
        return masks.shape[0]
    if isinstance(masks, Sequence):
        return len(masks)
    raise TypeError(
        f"{op}: expected masks as Polygons, a tensor or a list of run-length masks, "
        f"got {type(masks).__name__}"
    )


def _pack(masks: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor, Tensor]:
    """The compressed strings one after the other, where each starts [G + 1], and sizes [G, 2]."""
    checked = []
    for g, mask in enumerate(masks):
        try:
            checked.append(rle.validate(mask))
        except ValueError as error:
            raise ValueError(f"mask_targets: masks[{g}]: {error}") from None
    text = bytearray(b"".join(mask["counts"] for mask in checked))
    lengths = [len(mask["counts"]) for mask in checked]
    image_sizes = [mask["size"] for mask in checked]
    with torch.device("cpu"):
        counts = torch.frombuffer(text, dtype=torch.uint8) if text else torch.empty(0).byte()
        starts = torch.tensor([0, *lengths]).cumsum(0)
        return counts, starts, torch.tensor(image_sizes, dtype=torch.int64).view(-1, 2)


@torch.library.register_fake("dynamask::mask_targets")
def _(masks, boxes, index, sizes):
    return [boxes.new_empty(boxes.shape[0], s, s, dtype=torch.uint8) for s in sizes]


@torch.library.register_fake("dynamask::mask_targets_polygons")
def _(vertices, rings, instances, boxes, index, sizes):
    return [boxes.new_empty(boxes.shape[0], s, s, dtype=torch.uint8) for s in sizes]


@torch.library.register_fake("dynamask::mask_targets_rle")
def _(counts, starts, image_sizes, boxes, index, sizes):
    return [boxes.new_empty(boxes.shape[0], s, s, dtype=torch.uint8) for s in sizes]
