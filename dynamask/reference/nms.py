import torch
from torch import Tensor


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    boxes = boxes.double() if boxes.dtype == torch.float64 else boxes.float()
    rivals = (_iou(boxes) > iou_threshold) & (idxs[:, None] == idxs)  # [N, N]
    dropped = boxes.isnan().any(1) | scores.isnan()
    keep: list[int] = []
    for i in torch.argsort(scores, descending=True, stable=True).tolist():
        if not dropped[i]:
            keep.append(i)
            dropped |= rivals[i]
    return torch.tensor(keep, dtype=torch.int64)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return batched_nms(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64), iou_threshold)


def batched_nms_fixed(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, max_out: int
) -> tuple[Tensor, Tensor]:
    kept = batched_nms(boxes, scores, idxs, iou_threshold)[:max_out]
    keep = torch.zeros(max_out, dtype=torch.int64)
    keep[: len(kept)] = kept
    return keep, torch.arange(max_out) < len(kept)


def _iou(boxes: Tensor) -> Tensor:
    """How much each box shares with each other [N, N]; NaN where that is 0 / 0."""
    low, high = boxes[:, :2], boxes[:, 2:]
    area = (high - low).prod(1)
    sides = (torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)).clamp(min=0)
    both = sides.prod(2)
    return both / (area[:, None] + area - both)
