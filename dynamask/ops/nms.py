import torch
from torch import Tensor

from dynamask.ops._check import check_device, check_dims, check_float, check_int, check_size


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keeps each box that overlaps no better one too much: torchvision's ``nms``.

    Args:
        boxes: Corners (x1, y1, x2, y2) [N, 4], of any floating dtype.
        scores: The higher, the better [N], of any floating dtype; equal ones in order of input.
        iou_threshold: Boxes whose intersection over union with a kept one is more than this are
            dropped, in [0, 1].

    Returns:
        The positions of the boxes kept, by falling score [K] int64; for finite numbers exactly
        those of torchvision. A box with a NaN score or coordinate is never kept. One with an
        infinite coordinate overlaps nothing and disturbs no other. Memory grows with N, not with
        its square.

    Raises:
        TypeError: if a dtype is not floating.
        ValueError: if a shape or device does not fit, or the threshold is not in [0, 1].
    """
    _check("nms", boxes, scores, iou_threshold)
    return torch.ops.dynamask.nms(boxes, scores, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """:func:`nms` in each group by itself: torchvision's ``batched_nms``.

    Groups are told apart by their numbers, not by moving their boxes away from each other as
    torchvision does: exact for any number, and for any box in another group.

    Args:
        boxes: Corners (x1, y1, x2, y2) [N, 4], of any floating dtype.
        scores: The higher, the better [N], of any floating dtype; equal ones in order of input.
        idxs: The group of each box, such as its class [N]; any integers.
        iou_threshold: The most that two kept boxes of a group overlap, in [0, 1].

    Returns:
        The positions of the boxes kept, by falling score over all groups [K] int64; see
        :func:`nms` for NaN and infinity.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or device does not fit, or the threshold is not in [0, 1].
    """
    _check("batched_nms", boxes, scores, iou_threshold, idxs)
    return torch.ops.dynamask.batched_nms(boxes, scores, idxs, iou_threshold)


def batched_nms_fixed(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, max_out: int
) -> tuple[Tensor, Tensor]:
    """The best of :func:`batched_nms` in tensors whose shape does not depend on the boxes.

    Args:
        boxes: Corners (x1, y1, x2, y2) [N, 4], of any floating dtype.
        scores: The higher, the better [N], of any floating dtype; equal ones in order of input.
        idxs: The group of each box, such as its class [N]; any integers.
        iou_threshold: The most that two kept boxes of a group overlap, in [0, 1].
        max_out: How many boxes to keep at most, at least 0.

    Returns:
        ``keep`` [max_out] int64, the positions of the boxes kept by falling score, then zeros;
        ``valid`` [max_out] bool, which of them are boxes.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or device does not fit, the threshold is not in [0, 1] or
            ``max_out`` < 0.
    """
    _check("batched_nms_fixed", boxes, scores, iou_threshold, idxs)
    if max_out < 0:
        raise ValueError(f"batched_nms_fixed: expected max_out >= 0, got {max_out}")
    return torch.ops.dynamask.batched_nms_fixed(boxes, scores, idxs, iou_threshold, max_out)


def _check(
    op: str, boxes: Tensor, scores: Tensor, iou_threshold: float, idxs: Tensor | None = None
) -> None:
    check_dims(op, "boxes", boxes, "N 4")
    check_float(op, "boxes", boxes)
    check_dims(op, "scores", scores, "N")
    check_float(op, "scores", scores)
    check_size(op, "scores", boxes.shape[0], scores.shape[0])
    if idxs is not None:
        check_dims(op, "idxs", idxs, "N")
        check_int(op, "idxs", idxs)
        check_size(op, "idxs", boxes.shape[0], idxs.shape[0])
    check_device(op, boxes.device, scores=scores, idxs=idxs)
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"{op}: expected iou_threshold in [0, 1], got {iou_threshold}")


@torch.library.register_fake("dynamask::nms")
def _(boxes, scores, iou_threshold):
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)


@torch.library.register_fake("dynamask::batched_nms")
def _(boxes, scores, idxs, iou_threshold):
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)


@torch.library.register_fake("dynamask::batched_nms_fixed")
def _(boxes, scores, idxs, iou_threshold, max_out):
    keep = boxes.new_empty(max_out, dtype=torch.int64)
    return keep, boxes.new_empty(max_out, dtype=torch.bool)
