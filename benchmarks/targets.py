"""What the GPU operators are to reach against what a user would pick instead, in one run."""

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
    Target(10, "multiscale_roi_align | N=100 * | * | forward | torchvision*"),
    Target(3, "multiscale_roi_align | N=512 * | * | forward | torchvision*"),
    Target(100, "encode_masks | * | * | * | *"),
    Target(100, "mask_targets | bitmaps * @14@28@56@112 | * | * | roi_align of masks per box"),
    Target(15, "mask_edge_loss | * own class | * | * | torch ops*"),
    Target(5, "bucket_rois | dispatch * | * | * | *"),
    Target(4, "dynamic_mask_head | * as a CUDA graph | * | * | *"),
    Target(2, "model | *, recorded | bfloat16 | * | torchvision* under autocast*"),
)
SHARE_OF_FLOOR = 0.45  # of a convolution of the same shape, for deform_conv2d forward at 256@14


def matching(pattern: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that a pattern is about."""

    def key(row: dict[str, Any]) -> str:
        return " | ".join(row[name] for name in ("op", "case", "dtype", "direction", "baseline"))

    return [row for row in rows if fnmatchcase(key(row), pattern)]


def report(rows: list[dict[str, Any]]) -> str:
    """A line for each target: what was measured, and whether that is enough."""
    lines = []
    for target in TARGETS:
        ratios = [row["ratio"] for row in matching(target.pattern, rows)]
        found = "met" if ratios and min(ratios) >= target.ratio else "missed"
        measured = ", ".join(f"{ratio:.1f}x" for ratio in ratios)
        lines.append(
            f"{found if ratios else 'not run':8} >= {target.ratio:g}x  {target.pattern}  {measured}"
        )
    pattern = "deform_conv2d | N=100 256@14 * | bfloat16 | forward | *"
    for row in matching(pattern, rows):
        took = row.get("device_ms", {})
        if "floor" in took and "ours" in took:
            share = took["floor"] / took["ours"]
            word = "met" if share >= SHARE_OF_FLOOR else "missed"
            lines.append(f"{word:8} >= {SHARE_OF_FLOOR:.0%} of conv2d  {pattern}  {share:.0%}")
    return "\n".join(lines)
