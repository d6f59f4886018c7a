"""Check, then time, then report: what every `bench_*.py` here uses.

A case names our call, the call a user would pick instead, and a check that both agree; a failed
check means no number. Times are process CPU time, the calls in turn, so that a noisy machine
disturbs all alike; the median is kept and the ratio is what counts.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """One row of a benchmark table.

    Attributes:
        op: The operator's stem.
        case: Shapes in words, such as ``"N=100 256@14"``.
        ours: Runs our operator once.
        baseline: Runs what a user would pick instead, once.
        baseline_name: What that is, such as ``"torchvision"``.
        check: Raises unless both calls agree.
        dtype: Of the features.
        direction: ``"forward"`` or ``"backward"``.
        floor: Runs a bound of the hardware once (a plain convolution, a copy), if there is one.
    """

    op: str
    case: str
    ours: Callable[[], Any]
    baseline: Callable[[], Any]
    baseline_name: str
    check: Callable[[], None]
    dtype: str = "float32"
    direction: str = "forward"
    floor: Callable[[], Any] | None = None

    def __str__(self) -> str:
        return f"{self.op} {self.case} {self.dtype} {self.direction} vs {self.baseline_name}"


def measure(case: Case, seconds: float = 2.0) -> dict[str, Any]:
    """Checks a case, then times it for about ``seconds``; returns a row of the results file."""
    case.check()
    calls = {"ours": case.ours, "baseline": case.baseline}
    if case.floor:
        calls["floor"] = case.floor
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds
    while len(times["ours"]) < 3 or time.perf_counter() < end:
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append((time.process_time() - start) * 1e3)
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "op": case.op,
        "case": case.case,
        "dtype": case.dtype,
        "direction": case.direction,
        "threads": torch.get_num_threads(),
        "ours_ms": round(median["ours"], 4),
        "baseline": case.baseline_name,
        "baseline_ms": round(median["baseline"], 4),
        "ratio": round(median["baseline"] / median["ours"], 2),
        "floor_ms": round(median["floor"], 4) if case.floor else None,
    }


def machine() -> dict[str, Any]:
    """Where and with what a results file was made."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    commit = subprocess.run(
        ["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "device": gpu or "cpu",
        "cpu": cpu_name(),
        "gpu": gpu,
        "torch": torch.__version__,
        "commit": commit or None,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def cpu_name() -> str:
    """The processor's name and its widest vector instructions, as torch sees them."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| op | case | dtype | direction | ours ms | baseline | ms | ratio | floor ms |",
        "| --- | --- | --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for r in rows:
        floor = "" if r["floor_ms"] is None else f"{r['floor_ms']:.3g}"
        lines.append(
            f"| `{r['op']}` | {r['case']} | {r['dtype']} | {r['direction']} | {r['ours_ms']:.3g} "
            f"| {r['baseline']} | {r['baseline_ms']:.3g} | **{r['ratio']:.1f}x** | {floor} |"
        )
    return "\n".join(lines)


def write(rows: list[dict[str, Any]]) -> Path:
    """Adds the rows to `results/<device>-<date>.json`, in place of older ones of the same case."""
    here = machine()
    name = here["device"].lower().replace(" ", "-")
    path = RESULTS / f"{name}-{here['date']}.json"
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    keys = ("op", "case", "dtype", "direction", "threads", "baseline")
    new = {tuple(r[k] for k in keys) for r in rows}
    merged = [r for r in old if tuple(r[k] for k in keys) not in new] + rows
    merged.sort(key=lambda r: r["op"])
    RESULTS.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**here, "rows": merged}, indent=1) + "\n")
    os.replace(temporary, path)
    return path
