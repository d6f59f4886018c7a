"""COCO's ``segmentation`` entries: lists of polygons, or run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from dynamask import rle

Segmentation = list[list[float]] | dict[str, Any]


def rings_of(segmentation: Segmentation) -> list[list[float]]:
    """The outline as rings; run lengths are traced."""
    return segmentation if isinstance(segmentation, list) else rle.to_polygons(segmentation)


def as_text(run_lengths: dict[str, Any]) -> dict[str, Any]:
    """The same run lengths, compressed, with ``counts`` a str as in a JSON file."""
    if isinstance(run_lengths["counts"], str):
        return run_lengths
    checked = rle.validate(run_lengths)
    return {"size": checked["size"], "counts": checked["counts"].decode("ascii")}


def outline_area(segmentation: Segmentation) -> float:
    """Pixels inside; of several polygons that overlap, the overlap counts twice."""
    if isinstance(segmentation, dict):
        return float(rle.area(segmentation))
    total = 0.0
    for ring in segmentation:
        x, y = np.array(ring[::2]), np.array(ring[1::2])
        total += abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2
    return total


def outline_box(segmentation: Segmentation) -> list[float]:
    """The box (x, y, width, height) around an outline."""
    if isinstance(segmentation, dict):
        return rle.to_bbox(segmentation)
    numbers = [number for ring in segmentation for number in ring]
    x, y = min(numbers[::2]), min(numbers[1::2])
    return [x, y, max(numbers[::2]) - x, max(numbers[1::2]) - y]


def clip_outline(rings: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Cuts rings that reach far beyond the image down to a frame one image wide around it.

    What lies inside the image stays as it is. Without this the cost of rasterising would grow with
    the coordinates, and the usual rasterisers overflow.
    """
    low, high = (-width, -height), (2 * width, 2 * height)
    clipped = []
    for ring in rings:
        far = (
            min(ring[::2]) < low[0]
            or min(ring[1::2]) < low[1]
            or max(ring[::2]) > high[0]
            or max(ring[1::2]) > high[1]
        )
        kept = _clip_ring(ring, low, high) if far else ring
        if len(kept) >= 6:
            clipped.append(kept)
    return clipped


def _clip_ring(ring: list[float], low: tuple[int, int], high: tuple[int, int]) -> list[float]:
    """Sutherland and Hodgman's clipping, one side of the frame after the other."""
    points = list(zip(ring[::2], ring[1::2]))
    for axis in (0, 1):
        for limit, sign in ((low[axis], 1), (high[axis], -1)):
            points = _clip_half_plane(points, axis, limit, sign)
    return [float(number) for point in points for number in point]


def _clip_half_plane(
    points: list[tuple[float, float]], axis: int, limit: float, sign: int
) -> list[tuple[float, float]]:
    kept = []
    for k, end in enumerate(points):
        start = points[k - 1]
        inside, was_inside = sign * (end[axis] - limit) >= 0, sign * (start[axis] - limit) >= 0
        if inside != was_inside:
            share = (limit - start[axis]) / (end[axis] - start[axis])
            other = start[1 - axis] + share * (end[1 - axis] - start[1 - axis])
            kept.append((limit, other) if axis == 0 else (other, limit))
        if inside:
            kept.append(end)
    return kept
