"""Scenes of shapes: outlines painted one over the other, with the exact mask of what is visible."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dynamask.data.outlines import CLASSES, TURN, Ring

SUPERSAMPLING = 4
# fewer visible pixels, or a smaller share of the shape, and an instance counts as crowd
SMALLEST_AREA = 40
SMALLEST_VISIBILITY = 0.25


@dataclass(frozen=True)
class SceneStyle:
    """What scenes look like. Ranges are (low, high), drawn evenly.

    Attributes:
        side: Height and width of a scene in pixels.
        classes: Names of the outlines to draw from.
        count: How many objects are placed, where there is room.
        sizes: Longer side of an object in pixels, drawn evenly on a logarithmic scale.
        rotation: Largest turn to either side, in radians.
        overlap: Largest share of an object's box that another's may cover when placed.
        distance: Smallest distance of an object's mean colour from the background's (0 to 441).
        texture: Amplitude of the patterns on objects and background, in grey levels.
        noise: Standard deviation of the sensor noise, in grey levels.
        blur: Standard deviation of the lens blur, in pixels.
        contrast: Factor on the contrast of the finished picture.
        clutter: How many strokes that belong to no class lie on the background.
    """

    side: int
    classes: tuple[str, ...]
    count: tuple[int, int]
    sizes: tuple[float, float]
    rotation: float
    overlap: float
    distance: float
    texture: tuple[float, float]
    noise: tuple[float, float]
    blur: tuple[float, float]
    contrast: tuple[float, float]
    clutter: tuple[int, int]


@dataclass
class Shape:
    """One object of a scene.

    Attributes:
        label: Position of its class in the style's ``classes``.
        detail: How intricate its outline is, 0 to 1; independent of all else.
        outline: Its whole outline in pixels, rings [V, 2], hidden parts included.
        mask: Which pixels of the scene show it [side, side] bool.
        visibility: Visible share of the pixels it would cover alone.
    """

    label: int
    detail: float
    outline: list[Ring]
    mask: np.ndarray
    visibility: float

    @property
    def is_hidden(self) -> bool:
        """Too little of it shows for anybody to find it: an evaluation ignores it."""
        return self.mask.sum() < SMALLEST_AREA or self.visibility < SMALLEST_VISIBILITY


def make_scene(style: SceneStyle, rng: np.random.Generator) -> tuple[np.ndarray, list[Shape]]:
    """Paints a scene.

    Returns:
        The picture [side, side, 3] uint8 and its objects, the hindmost first. Objects of which
        nothing shows are left out.
    """
    side = style.side
    ground = rng.uniform(40, 215, 3)
    picture = _textured(ground, side, side, style, rng)
    _scatter_strokes(picture, style, rng)
    owner = np.full((side, side), -1, np.int32)
    placed: list[tuple[int, float, list[Ring], int]] = []
    for label, detail, outline in _place_objects(style, rng):
        alpha, x, y = cover(outline, side)
        if alpha.size == 0:
            continue
        height, width = alpha.shape
        color = _color_away_from(ground, style.distance, rng)
        paint = _textured(color, height, width, style, rng)
        part = (slice(y, y + height), slice(x, x + width))
        picture[part] += (paint - picture[part]) * alpha[..., None]
        inside = alpha >= 0.5
        owner[part][inside] = len(placed)
        placed.append((label, detail, outline, int(inside.sum())))
    shapes = []
    for number, (label, detail, outline, area) in enumerate(placed):
        mask = owner == number
        if mask.any():
            shapes.append(Shape(label, detail, outline, mask, float(mask.sum() / area)))
    return _photograph(picture, style, rng), shapes


def cover(outline: list[Ring], side: int) -> tuple[np.ndarray, int, int]:
    """Share of each pixel that an outline covers.

    Returns:
        The shares [h, w] float32 in a window around the outline, and where the window's top left
        pixel lies (x, y). The window is empty where the outline misses the picture.
    """
    points = np.concatenate(outline)
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 1, side)
    if x1 <= x0 or y1 <= y0:
        return np.zeros((0, 0), np.float32), 0, 0
    size = (int(x1 - x0), int(y1 - y0))
    fine = Image.new("L", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING), 0)
    draw = ImageDraw.Draw(fine)
    for ring in outline:
        corners = (ring - (x0, y0)) * SUPERSAMPLING - 0.5
        draw.polygon(corners.flatten().tolist(), fill=255)
    coarse = fine.resize(size, Image.Resampling.BOX)
    return np.asarray(coarse, np.float32) / 255, int(x0), int(y0)


def _place_objects(
    style: SceneStyle, rng: np.random.Generator
) -> list[tuple[int, float, list[Ring]]]:
    """Objects (label, detail, outline in pixels) in the order in which they are painted."""
    low, high = (math.log(size) for size in style.sizes)
    count = int(rng.integers(style.count[0], style.count[1] + 1))
    sizes = np.sort(np.exp(rng.uniform(low, high, count)))[::-1]
    boxes: list[np.ndarray] = []
    placed = []
    for size in sizes:
        label = int(rng.integers(len(style.classes)))
        detail = float(rng.random())
        rings = CLASSES[style.classes[label]](detail, rng)
        turn = rng.uniform(-style.rotation, style.rotation)
        stretch = math.exp(rng.uniform(-0.15, 0.15))
        cos, sin = math.cos(turn), math.sin(turn)
        rotate = np.array([[cos, -sin], [sin, cos]]) * (stretch, 1 / stretch)
        rings = [ring @ rotate.T for ring in rings]
        points = np.concatenate(rings)
        low_corner, high_corner = points.min(0), points.max(0)
        scale = size / (high_corner - low_corner).max()
        extent = (high_corner - low_corner) * scale
        corner = _free_corner(extent, boxes, style, rng)
        if corner is None:
            continue
        boxes.append(np.concatenate([corner, corner + extent]))
        placed.append((label, detail, [(ring - low_corner) * scale + corner for ring in rings]))
    return [placed[k] for k in rng.permutation(len(placed))]


def _free_corner(
    extent: np.ndarray, boxes: list[np.ndarray], style: SceneStyle, rng: np.random.Generator
) -> np.ndarray | None:
    """A top left corner at which a box of ``extent`` overlaps the others no more than allowed."""
    for _ in range(30):
        # up to a sixth of the box may lie outside the picture
        corner = rng.uniform(-extent / 6, np.maximum(style.side - extent * 5 / 6, 1))
        for box in boxes:
            inner = np.minimum(corner + extent, box[2:]) - np.maximum(corner, box[:2])
            smaller = min(extent.prod(), (box[2:] - box[:2]).prod())
            if inner.min() > 0 and inner.prod() > style.overlap * smaller:
                break
        else:
            return corner
    return None


def _color_away_from(ground: np.ndarray, distance: float, rng: np.random.Generator) -> np.ndarray:
    while True:
        color = rng.uniform(20, 235, 3)
        if np.linalg.norm(color - ground) >= distance:
            return color


def _textured(
    color: np.ndarray, height: int, width: int, style: SceneStyle, rng: np.random.Generator
) -> np.ndarray:
    """A surface [height, width, 3] float32 of one of five patterns, whoever wears it."""
    strength = rng.uniform(*style.texture)
    kind = rng.integers(5)
    y, x = np.ogrid[:height, :width]
    if kind == 0:
        pattern = np.zeros((height, width))
    elif kind == 1:
        pattern = rng.standard_normal((height, width)) * 0.6
    elif kind == 2:
        angle, period = rng.uniform(0, TURN), rng.uniform(6, 20)
        pattern = np.sign(np.sin((x * math.cos(angle) + y * math.sin(angle)) * TURN / period))
    elif kind == 3:
        across, down = rng.integers(5, 14, 2)
        pattern = ((x // across + y // down) % 2) * 2.0 - 1
    else:
        pattern = _clouds(height, width, rng)
    return (color + strength * pattern[..., None]).astype(np.float32)


def _clouds(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth random waves [height, width], about -1 to 1."""
    small = rng.uniform(-1.4, 1.4, (max(2, height // 16), max(2, width // 16))).astype(np.float32)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _scatter_strokes(picture: np.ndarray, style: SceneStyle, rng: np.random.Generator) -> None:
    """Draws lines that belong to no object, in place."""
    strokes = int(rng.integers(style.clutter[0], style.clutter[1] + 1))
    if not strokes:
        return
    canvas = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(strokes):
        start = rng.uniform(0, style.side, 2)
        bends = rng.normal(0, style.side / 10, (int(rng.integers(2, 5)), 2))
        path = np.concatenate([start[None], start + bends.cumsum(0)])
        color = tuple(int(value) for value in rng.integers(20, 236, 3))
        draw.line(path.flatten().tolist(), fill=color, width=int(rng.integers(1, 6)))
    picture[:] = np.asarray(canvas)


def _photograph(picture: np.ndarray, style: SceneStyle, rng: np.random.Generator) -> np.ndarray:
    """Contrast, lens blur and sensor noise."""
    contrast, blur = rng.uniform(*style.contrast), rng.uniform(*style.blur)
    middle = picture.mean()
    picture = (picture - middle) * contrast + middle
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    if blur > 0.3:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    noise = rng.standard_normal(picture.shape, np.float32) * rng.uniform(*style.noise)
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
