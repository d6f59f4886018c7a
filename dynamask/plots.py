"""The charts of a run as pictures of their own: plots/*.svg."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamask.charts import Series, line_chart, smoothed
from dynamask.evaluation.confusion import confusion
from dynamask.files import write_atomic
from dynamask.report import size_chart

if TYPE_CHECKING:
    from dynamask.evaluate import Evaluation
    from dynamask.run_folder import RunFolder

COLORS = {"bbox": "#56b4e9", "segm": "#d55e00", "boundary": "#009e73"}
SHOWN_CLASSES = 20
STYLE = """<style>
:root{--ink:#111;--quiet:#888;--accent:#6d4fd8;--rule:#ddd;--card:#fff}
text{font:12px system-ui,sans-serif;fill:#555}.grid{stroke:#ddd}
.mark{stroke:#888;stroke-dasharray:2 3}.line{fill:none;stroke-width:2.25}
.mid{text-anchor:middle}.end{text-anchor:end}.strong{font-weight:600;fill:#111}
</style><rect width="100%" height="100%" fill="#fff"/>"""


def write_plots(
    folder: RunFolder, found: Evaluation, ground_truth: dict[str, Any], score: float
) -> None:
    """curves, pr, mask_sizes and confusion, each where there is something to draw."""
    rows = folder.read_rows("train.csv")
    window = max(1, len(rows) // 120)
    loss = smoothed([(row["step"], row["loss"]) for row in rows], window)
    curves = [Series("loss", loss, "#0072b2", markers=False)]
    recalls = np.linspace(0, 1, 101)
    precision = [
        Series(
            name,
            list(zip(recalls, values)),
            COLORS[name],
            markers=False,
            labels_below=True,
            labels=[*[""] * (10 + 30 * k), name],  # names stand apart along the curves
        )
        for k, (name, values) in enumerate(found.coco.precision50.items())
    ]
    counts = confusion(ground_truth, found.predictions, score)
    names = [c["name"] for c in sorted(ground_truth["categories"], key=lambda c: c["id"])]
    charts = {
        "curves": line_chart(curves, "step", "loss"),
        "pr": line_chart(precision, "recall", "precision at IoU 0.5"),
        "mask_sizes": size_chart(found.mask_size_hist) if found.mask_size_hist else "",
        "confusion": confusion_chart(counts, names),
    }
    for name, chart in charts.items():
        if "<svg" in chart:
            write_atomic(folder.path / "plots" / f"{name}.svg", alone(chart))


def alone(chart: str) -> str:
    """The drawing out of a chart of the report, with the style it has from the page there."""
    start, end = chart.index("<svg"), chart.index("</svg>") + len("</svg>")
    head, body = chart[start:end].split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="720">{STYLE}{body}\n'


def confusion_chart(counts: np.ndarray, names: list[str]) -> str:
    """Shares of each true class (rows) by found class; at most the 20 most frequent classes."""
    frequent = np.argsort(-counts[:-1].sum(1), kind="stable")[:SHOWN_CLASSES]
    kept = [int(k) for k in sorted(frequent) if counts[k].sum() > 0]
    if not kept:
        return ""
    columns = [*kept, len(names)]
    cell, left, top = 26, 130, 110
    parts = []
    for y, true in enumerate(kept):
        middle = top + y * cell + 17
        parts.append(f'<text class="end" x="{left - 8}" y="{middle}">{escape(names[true])}</text>')
        for x, taken in enumerate(columns):
            share = counts[true, taken] / counts[true].sum()
            place = f'x="{left + x * cell}" y="{top + y * cell}"'
            parts.append(
                f'<rect {place} width="{cell - 1}" height="{cell - 1}" fill="#0072b2" '
                f'fill-opacity="{0.04 + 0.96 * share:.3f}"><title>{share:.0%}</title></rect>'
            )
    for x, taken in enumerate(columns):
        name = names[taken] if taken < len(names) else "not found"
        turn = f"translate({left + x * cell + 16} {top - 8}) rotate(-60)"
        parts.append(f'<text transform="{turn}">{escape(name)}</text>')
    width, height = left + len(columns) * cell + 60, top + len(kept) * cell + 10
    about = "true class by found class"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{about}">'
        f"{''.join(parts)}</svg>"
    )
