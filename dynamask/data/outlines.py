"""Outlines of the built-in shapes: each class has one knob, from plain (0) to intricate (1).

An outline is a list of rings [V, 2] in the unit square [-1, 1]; it covers the union of its rings.
The knob moves only how fine the outline is, and every class covers the whole range, so neither the
class nor the size of an instance says which mask resolution it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Ring = np.ndarray
TURN = 2 * math.pi


def _circle(count: int, radius: float = 1.0) -> Ring:
    angle = np.linspace(0, TURN, count, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _polar(angle: np.ndarray, radius: np.ndarray) -> Ring:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _between(low: float, high: float, detail: float) -> float:
    return low + (high - low) * detail


def _unit(rings: list[Ring]) -> list[Ring]:
    """Moved and scaled to fill [-1, 1] along the longer side."""
    points = np.concatenate(rings)
    low, high = points.min(0), points.max(0)
    scale = 2 / max(float((high - low).max()), 1e-9)
    return [(ring - (low + high) / 2) * scale for ring in rings]


def gear(detail: float, rng: np.random.Generator) -> list[Ring]:
    """A cogwheel: 5 shallow teeth to 40 deep ones."""
    teeth = round(_between(5, 40, detail**1.8))
    root = _between(0.93, 0.70, detail) + rng.uniform(-0.02, 0.02)
    points = []
    for tooth in range(teeth):
        for share, radius in ((0.0, root), (0.25, root), (0.32, 1), (0.68, 1), (0.75, root)):
            angle = TURN * (tooth + share) / teeth
            points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return [np.array(points)]


def ring(detail: float, rng: np.random.Generator) -> list[Ring]:
    """An annulus, from a disc with a hole to a hoop. Outer and inner circle are one outline."""
    inner = _between(0.30, 0.93, detail**0.9) + rng.uniform(-0.02, 0.02)
    flat = rng.uniform(0.8, 1.0)
    outer = _circle(96)
    hole = _circle(96, inner)[::-1]
    keyhole = np.concatenate([outer, outer[:1], hole[-1:], hole])
    return [keyhole * (1, flat)]


def star(detail: float, rng: np.random.Generator) -> list[Ring]:
    """Five blunt points to thirty sharp ones."""
    points = round(_between(5, 30, detail**2))
    inner = _between(0.72, 0.42, detail) + rng.uniform(-0.03, 0.03)
    angle = np.arange(2 * points) * math.pi / points
    return [_polar(angle, np.where(np.arange(2 * points) % 2, inner, 1.0))]


def leaf(detail: float, rng: np.random.Generator) -> list[Ring]:
    """A long leaf whose edge is smooth, then ever more finely and deeply toothed."""
    along = np.linspace(0, 1, 500)
    teeth = round(_between(4, 24, detail))
    depth = _between(0.0, 0.75, detail**1.3)
    saw = (along * teeth) % 1
    width = rng.uniform(0.40, 0.48) * np.sin(math.pi * along) ** 0.8 * (1 - depth * saw)
    upper, lower = np.stack([2 * along - 1, width], 1), np.stack([2 * along - 1, -width], 1)
    return [np.concatenate([upper, lower[::-1]])]


def comb(detail: float, rng: np.random.Generator) -> list[Ring]:
    """A block with 2 wide, short teeth to 16 narrow, long ones."""
    teeth = round(_between(2, 16, detail**1.6))
    back = _between(0.55, -0.62, detail**0.8)
    filled = _between(0.62, 0.42, detail) + rng.uniform(-0.03, 0.03)
    pitch = 2 / (teeth - 1 + filled)
    points = [(-1.0, -0.9), (1.0, -0.9)]
    for tooth in reversed(range(teeth)):
        left = -1 + tooth * pitch
        right, top = left + pitch * filled, 0.9 - 0.12 * rng.random()
        points += [(right, back), (right, top), (left, top), (left, back)]
    return [np.array(points)]


def flake(detail: float, rng: np.random.Generator) -> list[Ring]:
    """Koch's snowflake: a triangle, on whose edges grow bumps, on whose edges grow bumps ..."""
    corners = _circle(3)[::-1].copy()
    depth = 4 * detail + 0.3
    for level in range(math.ceil(depth)):
        height = min(1.0, depth - level) * math.sqrt(3) / 2 * rng.uniform(0.95, 1.05)
        step = (np.roll(corners, -1, 0) - corners) / 3
        outward = np.stack([-step[:, 1], step[:, 0]], 1)
        tip = corners + 1.5 * step + height * outward
        rows = [corners, corners + step, tip, corners + 2 * step]
        corners = np.stack(rows, 1).reshape(-1, 2)
    return [corners]


def tree(detail: float, rng: np.random.Generator) -> list[Ring]:
    """A stout fork to a bush of hair-thin twigs: every stroke is one ring."""
    levels = round(_between(1, 4, detail**1.2))
    thickness = _between(0.40, 0.08, detail**0.7)
    strokes: list[Ring] = []

    def grow(x: float, y: float, angle: float, length: float, width: float, left: int) -> None:
        end_x, end_y = x + length * math.cos(angle), y + length * math.sin(angle)
        across = np.array([-math.sin(angle), math.cos(angle)])
        start, end = np.array([x, y]), np.array([end_x, end_y])
        thin = 0.8 * width
        corners = [start + width * across, end + thin * across]
        strokes.append(np.array([*corners, end - thin * across, start - width * across]))
        strokes.append(_circle(8, thin) + end)
        if left:
            for turn in (-0.75, 0.0, 0.75):
                bend = angle + turn + rng.normal(0, 0.08)
                grow(end_x, end_y, bend, length * (0.68 if turn else 0.75), 0.72 * width, left - 1)

    grow(0.0, 1.0, -math.pi / 2, 0.75, thickness, levels)
    return _unit(strokes)


def spiral(detail: float, rng: np.random.Generator) -> list[Ring]:
    """A band that winds once, thick, to six times, thin."""
    turns = _between(0.8, 5.5, detail**1.6)
    filled = _between(0.95, 0.5, detail**0.7)
    count = round(40 * turns) + 20
    angle = np.linspace(0, TURN * turns, count)
    pitch = 0.9 / (turns + 0.5)
    middle = 0.1 + pitch * (angle / TURN + 0.25)
    half = pitch * filled / 2 * rng.uniform(0.95, 1.05)
    band = [_polar(angle, middle + half), _polar(angle, middle - half)[::-1]]
    return _unit([np.concatenate(band)])


CLASSES: dict[str, Callable[[float, np.random.Generator], list[Ring]]] = {
    function.__name__: function for function in (gear, ring, star, leaf, comb, tree, flake, spiral)
}
