"""Charts as inline SVG: no script, no font, no network; colours follow the page's light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 54, 16, 14, 46


@dataclass
class Series:
    """A line, or points alone, of a chart.

    Attributes:
        name: For the legend.
        points: (x, y) of each point.
        color: Any CSS colour.
        line: Whether points are joined.
        markers: Whether points are drawn.
        dashed: Whether the line is.
        labels: Text beside each point; none if empty.
        labels_below: Whether the text is below the point instead of above.
    """

    name: str
    points: Sequence[tuple[float, float]]
    color: str
    line: bool = True
    markers: bool = True
    dashed: bool = False
    labels: Sequence[str] = field(default_factory=list)
    labels_below: bool = False


class _Axes:
    """Where data lies on the paper."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]):
        self.x, self.y = x, y

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    y_from_zero: bool = True,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Lines and points over a plane.

    Args:
        series: What to draw, the last on top.
        x_label: What x is, with its unit.
        y_label: What y is.
        y_from_zero: Whether the axis starts at 0 even if no point is near.
        marks: Vertical lines at x with a text.
    """
    points = [point for one in series for point in one.points if math.isfinite(point[1])]
    if not points:
        return '<p class="quiet">Nothing to draw.</p>'
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_ticks = ticks(min(0, *xs) if min(xs) < 0.4 * max(xs) else min(xs), max(xs))
    y_ticks = ticks(0 if y_from_zero else min(ys), max(ys))
    axes = _Axes((x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1]))
    parts = [_grid(axes, x_ticks, y_ticks, x_label, y_label)]
    for x, text in marks:
        left, top = axes.at(x, axes.y[1])
        bottom = axes.at(x, axes.y[0])[1]
        parts.append(
            f'<line class="mark" x1="{left:.1f}" x2="{left:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
            f'<text x="{left + 5:.1f}" y="{top + 11:.1f}">{escape(text)}</text>'
        )
    parts += [_series(axes, one) for one in series]
    return _svg(parts, f"{y_label} against {x_label}") + legend(
        [(one.name, one.color, one.dashed) for one in series if one.name]
    )


def bar_chart(
    groups: Sequence[str],
    stacks: Sequence[tuple[str, str, Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    show_values: bool = False,
) -> str:
    """Stacked bars.

    Args:
        groups: Name of each bar.
        stacks: (name, colour, height in each bar), from the bottom up.
        x_label: What the bars are.
        y_label: What their height is.
        show_values: Write the height above each bar.
    """
    if not any(value for _, _, heights in stacks for value in heights):
        return '<p class="quiet">Nothing to draw.</p>'
    totals = [sum(stack[2][g] for stack in stacks) for g in range(len(groups))]
    y_ticks = ticks(0, max([*totals, 1e-9]))
    axes = _Axes((0, max(len(groups), 1)), (0, y_ticks[-1]))
    parts = [_grid(axes, [], y_ticks, x_label, y_label)]
    for g, group in enumerate(groups):
        bottom = 0.0
        for name, color, heights in stacks:
            x0, y0 = axes.at(g + 0.16, bottom)
            x1, y1 = axes.at(g + 0.84, bottom + heights[g])
            bottom += heights[g]
            about = escape(f"{group}: {name} {_short(heights[g])}")
            parts.append(
                f'<rect x="{x0:.1f}" y="{y1:.1f}" width="{x1 - x0:.1f}" '
                f'height="{max(y0 - y1, 0):.1f}" fill="{color}"><title>{about}</title></rect>'
            )
        x, y = axes.at(g + 0.5, bottom)
        base = axes.at(0, 0)[1]
        parts.append(f'<text class="mid" x="{x:.1f}" y="{base + 16:.1f}">{escape(group)}</text>')
        if show_values:
            value = escape(_short(totals[g]))
            parts.append(f'<text class="mid strong" x="{x:.1f}" y="{y - 5:.1f}">{value}</text>')
    names = [(name, color, False) for name, color, _ in stacks if name]
    return _svg(parts, f"{y_label} by {x_label}") + legend(names if len(names) > 1 else [])


def legend(entries: Sequence[tuple[str, str, bool]]) -> str:
    if not entries:
        return ""
    items = "".join(
        f'<span><i style="background:{color}"{" class=dashed" if dashed else ""}></i>'
        f"{escape(name)}</span>"
        for name, color, dashed in entries
    )
    return f'<p class="legend">{items}</p>'


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``."""
    if high <= low:
        high = low + 1
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def smoothed(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Means over stretches of ``window`` points."""
    out = []
    for k in range(0, len(points), window):
        part = points[k : k + window]
        out.append((part[-1][0], sum(y for _, y in part) / len(part)))
    return out


def _grid(
    axes: _Axes, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str
) -> str:
    parts = []
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in y_ticks:
        y = axes.at(axes.x[0], value)[1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="end" x="{LEFT - 7}" y="{y + 4:.1f}">{_short(value)}</text>'
        )
    for value in x_ticks:
        x = axes.at(value, axes.y[0])[0]
        parts.append(f'<text class="mid" x="{x:.1f}" y="{bottom + 16}">{_short(value)}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text class="mid name" x="{middle}" y="{HEIGHT - 8}">{escape(x_label)}</text>')
    turn = f"translate(13 {(TOP + bottom) / 2}) rotate(-90)"
    parts.append(f'<text class="mid name" transform="{turn}">{escape(y_label)}</text>')
    return "".join(parts)


def _series(axes: _Axes, one: Series) -> str:
    placed = [axes.at(x, y) for x, y in one.points if math.isfinite(y)]
    parts = []
    if one.line and len(placed) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        dash = ' stroke-dasharray="5 4"' if one.dashed else ""
        parts.append(f'<polyline class="line" points="{path}" stroke="{one.color}"{dash}/>')
    if one.markers:
        for x, y in placed:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{one.color}"/>')
    for (x, y), text in zip(placed, one.labels):
        # keep labels inside the frame
        left = x > WIDTH - RIGHT - 70
        place = f'class="end strong" x="{x - 8:.1f}"' if left else f'class="strong" x="{x + 8:.1f}"'
        down = 18 if one.labels_below and y < HEIGHT - BOTTOM - 24 else -8
        parts.append(f'<text {place} y="{y + down:.1f}">{escape(text)}</text>')
    return "".join(parts)


def _svg(parts: Sequence[str], about: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(about)}">'
        f"{''.join(parts)}</svg>"
    )


def _short(value: float) -> str:
    if value == int(value):
        return f"{int(value):,}".replace(",", "\u202f") if abs(value) >= 10000 else str(int(value))
    return f"{value:.3g}"
