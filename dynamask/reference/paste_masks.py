import math

import torch
import torch.nn.functional as F
from torch import Tensor


def paste_masks(
    masks: list[Tensor],
    boxes: Tensor,
    image_size: tuple[int, int],
    threshold: float = 0.5,
    *,
    mode: str = "detectron2",
) -> Tensor:
    """Each mask [S, S] in a frame of its own: bool [N, H, W]."""
    paste = {"detectron2": _paste_detectron2, "torchvision": _paste_torchvision}[mode]
    frames = torch.zeros(len(masks), *image_size)
    for frame, mask, box in zip(frames, masks, boxes.float()):
        x0, y0, x1, y1 = box.tolist()
        finite = all(math.isfinite(corner) for corner in (x0, y0, x1, y1))
        if finite and x0 <= x1 and y0 <= y1 and mask.numel() > 0:
            paste(frame, mask.float(), box)
    return frames >= threshold


def _paste_detectron2(frame: Tensor, mask: Tensor, box: Tensor) -> None:
    """`paste_masks_in_image` of detectron2 on the CPU: sample at the centres of pixels."""
    height, width = frame.shape
    x0, y0, x1, y1 = box
    left, top = (int(x.clamp(0, 2**24)) for x in (x0.floor() - 1, y0.floor() - 1))
    right, bottom = int((x1.ceil() + 1).clamp(0, width)), int((y1.ceil() + 1).clamp(0, height))
    if left >= right or top >= bottom:
        return
    image_y = (torch.arange(top, bottom) + 0.5 - y0) / (y1 - y0) * 2 - 1
    image_x = (torch.arange(left, right) + 0.5 - x0) / (x1 - x0) * 2 - 1
    grid_y, grid_x = torch.meshgrid(image_y, image_x, indexing="ij")
    grid = torch.stack([grid_x, grid_y], dim=-1)[None]
    frame[top:bottom, left:right] = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]


def _paste_torchvision(frame: Tensor, mask: Tensor, box: Tensor) -> None:
    """`paste_masks_in_image` of torchvision with padding=1, boxes outside the image allowed."""
    height, width = frame.shape
    size = mask.shape[0]
    half = (box[2:] - box[:2]) * 0.5 * float((size + 2) / size)
    centre = (box[2:] + box[:2]) * 0.5
    left, top = (centre - half).to(torch.int64).tolist()
    right, bottom = ((centre + half).to(torch.int64) + 1).tolist()
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if x0 >= x1 or y0 >= y1:
        return
    ringed = F.pad(mask, (1, 1, 1, 1))[None, None]
    box_size = (max(bottom - top, 1), max(right - left, 1))
    resized = F.interpolate(ringed, size=box_size, mode="bilinear", align_corners=False)[0, 0]
    frame[y0:y1, x0:x1] = resized[y0 - top : y1 - top, x0 - left : x1 - left]
