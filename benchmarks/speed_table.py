"""The speed tables of README.md, from the newest results file of each device.

``python -m dynamask.benchmarks.speed_table`` writes them between their two marks.
"""

import json
from pathlib import Path
from typing import Any

from dynamask.benchmarks.harness import milliseconds
from dynamask.benchmarks.targets import TARGETS, matching

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- speed: made by benchmarks/speed_table.py -->\n", "<!-- /speed -->"

# What a reader sees of the many rows of a CPU, as "op | case | dtype | direction | against"; of a
# GPU's it is those with a target.
SHOWN = (
    "model | * | * | * | *",
    "dynamic_mask_head | * | float32 | * | *",
    "deform_conv2d | N=24 * G=1 NCHW | float32 | forward | torchvision",
    "deform_conv2d | N=97 * | float32 | forward | torchvision",
    "deform_conv2d | N=24 * G=1 NCHW | bfloat16 | forward | ours float32",
    "deform_conv2d | N=24 * G=1 NCHW | float32 | backward | torchvision",
    "feature_aggregation | N=24 * | * | * | *",
    "winograd_conv2d | * | float32 | * | *",
    "multiscale_roi_align | N=100 256@14 * | float32 | * | torchvision",
    "multiscale_roi_align | N=512 256@14 * | float32 | * | torchvision",
    "multiscale_roi_align | N=25 256@56 * | float32 | * | torchvision",
    "encode_masks | * | * | * | *",
    "paste_masks | N=100 M=28 * | * | * | *",
    "nms | * | float32 | * | torchvision",
    "mask_targets | * @14@28@56@112 | * | * | *",
    "edge_targets | * 14+28+56+112 * | uint8 | * | *",
    "mask_edge_loss | * own class | * | * | *",
    "mask_edge_loss | * one class | float32 | * | *",
    "class_logits | * | float32 | * | *",
)


def newest() -> list[dict[str, Any]]:
    """One results file per device, the CPU first."""
    by_device = {}
    for path in sorted(RESULTS.glob("*.json"), key=lambda path: path.stem[-10:]):
        result = json.loads(path.read_text())
        if "rows" in result:  # other experiments lie there too
            by_device[result["device"]] = {**result, "file": f"benchmarks/results/{path.name}"}
    return [by_device[device] for device in sorted(by_device, key=lambda name: name != "cpu")]


def table(result: dict[str, Any]) -> str:
    """A device's rows and where they come from; on a GPU, what it takes alone in brackets."""
    lines = [
        f"{result['gpu'] or result['cpu']}, torch {result['torch']}, commit {result['commit']}, "
        f"{result['date']}; these and {len(result['rows'])} rows in all in `{result['file']}`"
        + (
            "; launches included, and in brackets what the GPU takes alone:"
            if result["gpu"]
            else ":"
        ),
        "",
        "| operator | case | | ours ms | against | ms | ratio | floor ms |",
        "| --- | --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    patterns = [target.pattern for target in TARGETS] if result["gpu"] else SHOWN
    for row in (row for pattern in patterns for row in matching(pattern, result["rows"])):
        how = " ".join(
            x for x in (row["dtype"], row["direction"]) if x not in ("float32", "forward")
        )
        threads = "" if row["threads"] == 1 else f", {row['threads']} threads"
        floor = "" if row["floor_ms"] is None else milliseconds(row, "floor", ".4g")
        lines.append(
            f"| `{row['op']}` | {row['case']}{threads} | {how.strip()} "
            f"| {milliseconds(row, 'ours')} | {row['baseline']} "
            f"| {milliseconds(row, 'baseline', '.4g')} | **{row['ratio']:.1f}x** | {floor} |"
        )
    return "\n".join(lines)


def updated(readme: str) -> str:
    """The same text with the tables of now."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "\n\n".join(table(result) for result in newest())
    return f"{before}{BEGIN}\n{tables}\n\n{END}{after}"


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
