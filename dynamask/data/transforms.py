"""Augmentation and resizing: image, boxes and outlines move together, masks never exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

Target = dict[str, Any]


class Corners(tv_tensors.KeyPoints):
    """Corners of outlines [V, 2]: points of the plane, where a key point is the middle of a pixel.

    torchvision mirrors key points at the middle of the last pixel (x -> W - 1 - x), which would
    leave outlines one pixel beside their image; corners go to W - x, as boxes do.
    """


@functional.register_kernel(functional.horizontal_flip, Corners)
def _flip_left_right(corners: Corners) -> Corners:
    height, width = corners.canvas_size
    x, y = corners.as_subclass(Tensor).unbind(-1)
    return Corners(torch.stack([width - x, y], -1), canvas_size=(height, width))


@functional.register_kernel(functional.vertical_flip, Corners)
def _flip_upside_down(corners: Corners) -> Corners:
    height, width = corners.canvas_size
    x, y = corners.as_subclass(Tensor).unbind(-1)
    return Corners(torch.stack([x, height - y], -1), canvas_size=(height, width))


class TrainTransform:
    """Flips, resizes and, on demand, changes the colours, at random.

    Randomness comes from torch's global generator, which ``data_loader`` seeds for every sample.

    Args:
        short_sides: The shorter side is resized to one of these, in pixels ...
        max_side: ... unless the longer side then exceeds this: it is resized to this instead.
        flip: Probability of a mirror image, left to right.
        photometric: Whether to change brightness, contrast, saturation and hue.
    """

    def __init__(
        self,
        short_sides: Sequence[int] = (640, 672, 704, 736, 768, 800),
        max_side: int = 1333,
        flip: float = 0.5,
        photometric: bool = False,
    ) -> None:
        steps: list[torch.nn.Module] = [v2.RandomHorizontalFlip(flip)]
        if photometric:
            steps.append(v2.RandomPhotometricDistort())
        self.change = v2.Compose(steps)
        self.short_sides = tuple(short_sides)
        self.max_side = max_side

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """From (uint8 [3, H, W], target) to (float32 [3, h, w] in 0..1, target in its pixels)."""
        choice = int(torch.randint(len(self.short_sides), ()))
        return _apply(image, target, self.change, self.short_sides[choice], self.max_side)


class EvalTransform:
    """Resizes alone: the shorter side to ``short_side``, the longer to at most ``max_side``."""

    def __init__(self, short_side: int = 800, max_side: int = 1333) -> None:
        self.short_side = short_side
        self.max_side = max_side

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """From (uint8 [3, H, W], target) to (float32 [3, h, w] in 0..1, target in its pixels)."""
        return _apply(image, target, v2.Identity(), self.short_side, self.max_side)


def resized_size(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """(height, width) with the shorter side ``short_side``, the longer at most ``max_side``."""
    scale = min(short_side / min(height, width), max_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _apply(
    image: Tensor, target: Target, change: Any, short_side: int, max_side: int
) -> tuple[Tensor, Target]:
    height, width = image.shape[-2:]
    resize = v2.Resize(list(resized_size(height, width, short_side, max_side)), antialias=True)
    canvas = (height, width)
    boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=canvas)
    corners = Corners(target["polygons"].vertices, canvas_size=canvas)
    image, boxes, corners = resize(*change(tv_tensors.Image(image), boxes, corners))
    moved = {
        **target,
        "boxes": boxes.as_subclass(Tensor),
        "polygons": target["polygons"]._replace(vertices=corners.as_subclass(Tensor)),
    }
    pixels = image.as_subclass(Tensor).float() / 255
    return pixels, moved
