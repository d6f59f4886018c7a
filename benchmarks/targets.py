"""What the GPU operators are to reach against what a user would pick instead, in one run.

Ratios are of the clock on the wall, launches and Python included. What the device takes alone
stands beside them: if that is enough and the wall's is not, the host is what to look at.
"""

from fnmatch import fnmatchcase
from typing import Any, NamedTuple


class Target(NamedTuple):
    """The least ratio of the rows of a pattern: "op | case | dtype | direction | against"."""

    ratio: float
    pattern: str


TARGETS = (
    Target(5, "deform_conv2d | N=100 * | bfloat16 | forward | torchvision under autocast"),
    Target(10, "deform_conv2d | N=101 * | bfloat16 | forward | torchvision under autocast"),
    Target(5, "deform_conv2d | N=100 * | bfloat16 | backward | torchvision under autocast"),
    Target(6, "feature_aggregation | N=100 * | bfloat16 | forward | torchvision under autocast"),
    Target(10, "multiscale_roi_align | N=100 256@14 * | * | forward | torchvision*"),
    Target(3, "multiscale_roi_align | N=512 256@14 * | * | forward | torchvision*"),
    Target(100, "encode_masks | * | * | * | *"),
    Target(100, "mask_targets | bitmaps * @14@28@56@112 | * | * | roi_align of masks per box"),
    Target(15, "mask_edge_loss | * one call | * | * | torch ops"),
    Target(5, "bucket_rois | dispatch * | * | * | *"),
    Target(4, "dynamic_mask_head | * as a CUDA graph | * | * | *"),
    Target(2, "model | *, recorded | bfloat16 | * | torchvision* under autocast*"),
)
# The products of deform_conv2d forward at 256@14, and a share of the least time that they take.
BOUND = "deform_conv2d | N=100 256@14 G=1 * | bfloat16 | forward | *"
FLOPS = 2 * 100 * 14 * 14 * 9 * 256 * 256
RATE = 990e12  # a second, of dense bf16 on an H200
SHARE = 0.45


def key(row: dict[str, Any]) -> str:
    """What patterns are held against."""
    return " | ".join(row[name] for name in ("op", "case", "dtype", "direction", "baseline"))


def rank(key: str) -> int:
    """The number of the first target that a key counts for; after the last if there is none."""
    found = (k for k, target in enumerate(TARGETS) if fnmatchcase(key, target.pattern))
    return next(found, len(TARGETS))


def matching(pattern: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that a pattern is about."""
    return [row for row in rows if fnmatchcase(key(row), pattern)]


def on_device(row: dict[str, Any], call: str = "baseline") -> float | None:
    """How many times as long as ours a call takes the device alone, where that was measured."""
    took = row.get("device_ms", {})
    return took[call] / took["ours"] if call in took and "ours" in took else None


def report(rows: list[dict[str, Any]]) -> str:
    """A line for each target, met or missed, and one for each of its rows."""
    lines = []
    for target in TARGETS:
        found = matching(target.pattern, rows)
        met = "met" if all(row["ratio"] >= target.ratio for row in found) else "missed"
        lines.append(f"{met if found else 'not run':8} >= {target.ratio:g}x  {target.pattern}")
        for row in found:
            alone = on_device(row)
            alone = "" if alone is None else f" (device alone {alone:.1f}x)"
            what = f"{row['case']}, {row['dtype']}, against {row['baseline']}"
            lines.append(f"{row['ratio']:16.1f}x{alone}  {what}")
    bound = FLOPS / RATE * 1e3
    for row in matching(BOUND, rows):
        plain, alone = on_device(row, "floor"), row.get("device_ms", {}).get("ours")
        if plain is not None and alone is not None:
            met = "met" if bound / alone >= SHARE else "missed"
            lines.append(f"{met:8} >= {SHARE:.0%} of the {bound * 1e3:.0f} us of an H200  {BOUND}")
            lines.append(f"{bound / alone:16.0%}  {row['case']}; {plain:.0%} of a plain conv2d")
    return "\n".join(lines)
