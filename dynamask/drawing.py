"""Pictures of instances: a veil of colour with a firm outline, a label, and a legend."""

from __future__ import annotations

import colorsys
import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dynamask.ops import RaggedMasks, paste_masks

if TYPE_CHECKING:
    from dynamask.prediction import Prediction

Color = tuple[int, int, int]

# of Okabe and Ito's colours, which every kind of colour vision tells apart, the four that run from
# cool to warm
MASK_SIZE_COLORS: dict[int, Color] = {
    14: (86, 180, 233),
    28: (0, 158, 115),
    56: (240, 228, 66),
    112: (213, 94, 0),
}
COLOR_BY = ("mask_size", "class", "instance")


def distinct_color(index: int) -> Color:
    """A colour far from those of the neighbouring indices: the hue steps by the golden ratio."""
    hue = (0.58 + index * 0.618034) % 1
    lightness = (0.55, 0.68, 0.42)[index % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def mask_size_color(size: int) -> Color:
    """The colour of a mask size; sizes beyond 14, 28, 56 and 112 take that of the next below."""
    known = [s for s in MASK_SIZE_COLORS if s <= size]
    return MASK_SIZE_COLORS[max(known, default=14)]


def as_picture(image: Any) -> Image.Image:
    """Tensor [3, H, W] or [1, H, W], array [H, W, 3] or [H, W], or Pillow image: to RGB."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        if image.dim() != 3 or image.shape[0] not in (1, 3):
            raise ValueError(f"plot: expected an image [3, H, W], got {list(image.shape)}")
        image = image.permute(1, 2, 0).expand(-1, -1, 3)
        if image.is_floating_point():
            image = (image.float().clamp(0, 1) * 255).round().to(torch.uint8)
        image = image.numpy()
    return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")


def draw_prediction(
    prediction: Prediction,
    image: Any,
    *,
    color_by: str = "mask_size",
    scale: int = 1,
    labels: bool = True,
    legend: bool = True,
) -> Image.Image:
    """What ``Prediction.plot`` does."""
    if color_by not in COLOR_BY:
        raise ValueError(f"plot: expected color_by {' | '.join(COLOR_BY)}, got {color_by!r}")
    picture = as_picture(image)
    height, width = prediction.image_size
    if picture.size != (width, height):
        raise ValueError(
            f"plot: expected an image of {height} x {width} pixels, got "
            f"{picture.height} x {picture.width}"
        )
    picture = picture.resize((width * scale, height * scale), Image.Resampling.LANCZOS)
    prediction = prediction.to("cpu").resized(height * scale, width * scale)
    colors = _colors(prediction, color_by)
    canvas = np.asarray(picture).copy()
    boxes = prediction.boxes.float()
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    large_first = area.argsort(descending=True).tolist()
    for n, mask, box in _in_order(large_first, prediction.masks.split(), boxes):
        paint_mask(canvas, *mask_in_its_box(mask, box, canvas.shape[:2]), colors[n])
    picture = Image.fromarray(canvas)
    if labels:
        for n in reversed(large_first):
            text = f"{prediction.names[n]} {prediction.scores[n]:.2f}"
            write_label(picture, text, boxes[n].tolist(), colors[n])
    if legend and color_by == "mask_size":
        write_legend(picture, prediction.mask_size.tolist())
    return picture


def _colors(prediction: Prediction, color_by: str) -> list[Color]:
    if color_by == "mask_size":
        return [mask_size_color(size) for size in prediction.mask_size.tolist()]
    if color_by == "class":
        return [distinct_color(label) for label in prediction.labels.tolist()]
    return [distinct_color(n) for n in range(len(prediction))]


def _in_order(order: list[int], masks: list[Tensor], boxes: Tensor):
    return ((n, masks[n], boxes[n]) for n in order)


def mask_in_its_box(
    mask: Tensor, box: Tensor, image_size: tuple[int, int]
) -> tuple[np.ndarray, int, int]:
    """Pastes one grid of probabilities, but only over the pixels of its box.

    Returns:
        The mask [h, w] bool and where its top left pixel lies in the image (x, y).
    """
    height, width = image_size
    if not torch.isfinite(box).all():
        return np.zeros((0, 0), bool), 0, 0
    x0, y0 = max(math.floor(box[0]) - 1, 0), max(math.floor(box[1]) - 1, 0)
    x1, y1 = min(math.ceil(box[2]) + 1, width), min(math.ceil(box[3]) + 1, height)
    if x1 <= x0 or y1 <= y0:
        return np.zeros((0, 0), bool), 0, 0
    moved = box - box.new_tensor([x0, y0, x0, y0])
    pasted = paste_masks(RaggedMasks.of([mask]), moved[None], (y1 - y0, x1 - x0))
    return pasted[0].numpy().astype(bool), x0, y0


def paint_mask(canvas: np.ndarray, mask: np.ndarray, x: int, y: int, color: Color) -> None:
    """Lays a veil of ``color`` over the mask's pixels and a firm line along its rim, in place."""
    if not mask.any():
        return
    part = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
    inner = _eroded(mask)
    if min(canvas.shape[:2]) >= 400:
        inner = _eroded(inner)
    rim = mask & ~inner
    part[inner] = (part[inner] * 0.5 + np.array(color) * 0.5).astype(np.uint8)
    part[rim] = color


def _eroded(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _font(picture: Image.Image) -> Any:
    size = max(10, min(22, round(min(picture.size) / 40)))
    return ImageFont.load_default(size)


def _ink(color: Color) -> Color:
    """Black or white, whichever reads better on ``color``."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else (255, 255, 255)


def write_label(picture: Image.Image, text: str, box: list[float], color: Color) -> None:
    """Writes ``text`` on a tag at the top left corner of ``box``, inside the picture."""
    if not all(math.isfinite(number) for number in box):
        return
    draw, font = ImageDraw.Draw(picture), _font(picture)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = round(right - left) + 6, round(bottom - top) + 5
    x = max(0, min(round(box[0]), picture.width - width))
    y = max(0, min(round(box[1]) - height, picture.height - height))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    draw.text((x + 3 - left, y + 2 - top), text, fill=_ink(color), font=font)


def write_legend(picture: Image.Image, sizes: list[int]) -> None:
    """Says in the bottom left corner which colour is which mask size, and how many have it."""
    draw, font = ImageDraw.Draw(picture), _font(picture)
    rows = sorted({*MASK_SIZE_COLORS, *sizes})
    texts = [f"{size} x {size}: {sizes.count(size)}" for size in rows]
    line = round(draw.textbbox((0, 0), "0", font=font)[3]) + 4
    width = round(max(draw.textlength(text, font=font) for text in texts)) + line + 12
    height = line * len(rows) + 8
    y = picture.height - height
    corner = picture.crop((0, y, width, picture.height))
    veil = Image.new("RGB", corner.size, (20, 20, 20))
    picture.paste(Image.blend(corner, veil, 0.75), (0, y))
    for size, text in zip(rows, texts):
        draw.rectangle(
            (5, y + 6, 5 + line - 5, y + 6 + line - 5), fill=cast(Any, mask_size_color(size))
        )
        draw.text((line + 7, y + 4), text, fill=(255, 255, 255), font=font)
        y += line
