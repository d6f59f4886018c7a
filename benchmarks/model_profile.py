"""Where the time of one image goes, stage by stage."""

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from dynamask.models.backbone import STAGES
from dynamask.models.detector import Detector

Row = tuple[str, float, float]


class Stopwatch:
    """CPU time by stage: what a stage calls of other stages counts for those alone.

    Attributes:
        ms: Of every stage, in the order in which they were first reached.
    """

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        now = time.process_time()
        if self._running:
            self.ms[self._running[-1]] += (now - self._since) * 1e3
        self._since = now

    def watch(self, name: str, call: Callable) -> Callable:
        def watched(*args: Any, **options: Any) -> Any:
            self._switch()
            self._running.append(name)
            self.ms.setdefault(name, 0.0)
            try:
                return call(*args, **options)
            finally:
                self._switch()
                self._running.pop()

        return watched


def profile(model: Detector, image: Tensor, rounds: int = 3) -> list[Row]:
    """Times one image [3, H, W] on its way to run lengths.

    Args:
        model: In evaluation mode, or an inference form.
        image: Floats in 0..1.
        rounds: The median of so many is told; one more before them warms up.

    Returns:
        (stage, ms of process CPU time, share of the whole); ``rest`` is what no stage accounts for.
    """
    watches = []
    with torch.no_grad():
        for _ in range(rounds + 1):
            watches.append(Stopwatch())
            _run(model, image, watches[-1])
    names = list(watches[-1].ms)
    ms = {name: statistics.median(w.ms.get(name, 0.0) for w in watches[1:]) for name in names}
    ms["rest"] = ms.pop("rest")  # last
    whole = sum(ms.values())
    return [(name, value, value / whole) for name, value in ms.items()]


def _run(model: Detector, image: Tensor, stopwatch: Stopwatch) -> None:
    with ExitStack() as stack:
        for stage, owner, attribute in _stages(model):
            watched = stopwatch.watch(stage, getattr(owner, attribute))
            stack.enter_context(patch.object(owner, attribute, watched))

        def image_to_masks() -> None:
            (found,) = model([image])
            stopwatch.watch("encode masks", found.rle)()

        stopwatch.watch("rest", image_to_masks)()


def _stages(model: Detector) -> list[tuple[str, Any, str]]:
    """(name, object, its method) of all that is timed."""
    backbone, branch = model.backbone, model.mask_branch
    stages = [("normalise, pad", model, "batch")]
    for name, module in backbone.body.items():
        stages.append((name if name in STAGES else "stem", module, "forward"))
    stages += [
        ("feature pyramid", backbone.fpn, "forward"),
        ("RPN head", model.rpn.head, "forward"),
        ("proposals", model.rpn, "forward"),
        ("box RoIAlign", model.box_head, "forward"),
        ("box layers", model.box_head.mlp, "forward"),
        ("box layers", model.box_head.predictor, "forward"),
        ("box selection", model, "postprocess"),
        ("mask dispatch", branch, "forward"),
        ("mask probabilities", branch, "decode"),
    ]
    if hasattr(branch, "pyramid"):
        stages += [
            ("mask RoIAlign", branch, "roi_features"),
            ("mask switch", branch, "_select"),
            ("masks at 14", branch.pyramid.base, "forward"),
        ]
        for stage, size in zip(branch.pyramid.stages, branch.sizes[1:]):
            stages.append((f"masks at {size}, levels", stage, "project"))
            stages.append((f"masks at {size}", stage, "forward"))
        stages += [("mask exits", exit.mask, "forward") for exit in branch.pyramid.exits]
    return stages


def report() -> str:
    """The profiles of ``bench_model`` in fp32 and bf16 as one Markdown table."""
    from dynamask.benchmarks.bench_model import dynamask, image

    profiles = [profile(dynamask(dtype), image()) for dtype in (torch.float32, torch.bfloat16)]
    lines = ["| stage | fp32 ms | share | bf16 ms | share |", "| --- | ---: | ---: | ---: | ---: |"]
    for (name, ms, share), (_, half_ms, half_share) in zip(*profiles):
        lines.append(f"| {name} | {ms:.1f} | {share:.1%} | {half_ms:.1f} | {half_share:.1%} |")
    totals = [sum(ms for _, ms, _ in rows) for rows in profiles]
    lines.append(f"| **all** | **{totals[0]:.0f}** | | **{totals[1]:.0f}** | |")
    return "\n".join(lines)
