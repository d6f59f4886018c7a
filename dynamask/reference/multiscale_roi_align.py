import torch
from torch import Tensor

from dynamask.reference.roi_align import roi_align


def pyramid_level(
    boxes: Tensor,
    scales: list[float],
    level_rule: str,
    canonical_scale: float,
    canonical_level: int,
) -> Tensor:
    """The position in the pyramid of each box [R]; -1 for a box that has none."""
    if len(scales) == 1:
        return torch.zeros(len(boxes), dtype=torch.int64)
    boxes = boxes.double() if boxes.dtype == torch.float64 else boxes.float()
    side = ((boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2])).sqrt()
    if level_rule == "detectron2":
        level = torch.floor(canonical_level + torch.log2(side / canonical_scale + 1e-8))
    else:
        level = torch.floor(canonical_level + torch.log2(side / canonical_scale) + 1e-6)
    first = round(-torch.log2(torch.tensor(scales[0])).item())
    position = (level - first).clamp(0, len(scales) - 1)
    return position.nan_to_num(nan=-1).long()


def multiscale_roi_align(
    features: list[Tensor],
    boxes: Tensor,
    output_size: tuple[int, int],
    scales: list[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    level_rule: str = "torchvision",
    canonical_scale: float = 224.0,
    canonical_level: int = 4,
) -> Tensor:
    level = pyramid_level(boxes, scales, level_rule, canonical_scale, canonical_level)
    out = features[0].new_zeros(len(boxes), features[0].shape[1], *output_size)
    for k, (feature, scale) in enumerate(zip(features, scales)):
        here = level == k
        out[here] = roi_align(feature, boxes[here], output_size, scale, sampling_ratio, aligned)
    return out
