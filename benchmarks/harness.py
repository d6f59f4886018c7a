"""Check, then time, then report: what every `bench_*.py` here uses.

A case names our call, the call a user would pick instead, and a check that both agree; a failed
check means no number. The calls are timed in turn, so that a noisy machine disturbs all alike; the
median is kept and the ratio is what counts. A short call runs once untimed before each time it is
timed, and one of microseconds as many times as make a millisecond: caches, and memory that a
virtual machine has given back, are what the call before left. One thread is timed by the CPU time
of the process, more by the clock on the wall.

On a GPU the clock is the wall's with the device waited for at both
ends: launches count, as they do for a user. What the device alone takes stands beside it, from
calls that queue up behind a kernel that sleeps. The L2 cache is not emptied in between: in a model
too the maps were just written by the layer before.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
DEVICE = torch.device("cpu")


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


# Calls `call` a number of times, `between` before each, and returns how long it took: seconds.
Rounds = Callable[[Callable[[], Any], Callable[[], None], int], Sequence[float]]


def use(device: str) -> None:
    """Makes the tensors of all cases on a device; before their files are imported."""
    global DEVICE
    DEVICE = torch.device(device)
    if on_gpu():
        torch.set_default_device(DEVICE)
        torch.backends.cudnn.allow_tf32 = False  # fp32 is IEEE, as in our operators


def on_gpu() -> bool:
    """Whether cases are measured on a GPU."""
    return DEVICE.type == "cuda"


def clock() -> float:
    """Seconds: of CPU time for one thread, on the wall for more, or once a GPU is done."""
    if on_gpu():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def in_turn(call: Callable[[], Any], between: Callable[[], None], rounds: int) -> list[float]:
    """Seconds of each call."""
    times = []
    for _ in range(rounds):
        between()
        times.append(seconds_of(call))
    return times


SHORT = 0.3  # seconds
LEAST = 1e-3  # seconds that are timed at once


def repeated(call: Callable[[], Any], times: int) -> Callable[[], Any]:
    """A call that makes so many."""
    if times == 1:
        return call

    def run() -> None:
        for _ in range(times):
            call()

    return run


def seconds_of(call: Callable[[], Any]) -> float:
    start = clock()
    call()
    return clock() - start


def seconds_on_device(call: Callable[[], Any], once: float) -> float:
    """What a GPU takes for a call of `once` seconds if launches come as fast as it works."""
    times = max(1, min(50, round(2e-3 / once)))
    found = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(int(2e9 * (once * times + 1e-3)))  # cycles, until all is queued
        start.record()
        for _ in range(times):
            call()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end) / times / 1e3)
    return statistics.median(found)


def measure(case: Case, seconds: float = 2.0, run: Rounds = in_turn) -> dict[str, Any]:
    """Checks a case, then times it for about ``seconds``; returns a row of the results file.

    Args:
        case: What to time.
        seconds: Enough rounds for this long, and at least three.
        run: Makes the rounds; pytest-benchmark comes in here.
    """
    case.check()
    if not on_gpu():
        return _timed(case, seconds, run)
    torch.set_default_device(None)  # which would add to each call of torch
    try:
        return _timed(case, seconds, run)
    finally:
        torch.set_default_device(DEVICE)


def _timed(case: Case, seconds: float, run: Rounds) -> dict[str, Any]:
    calls = {"baseline": case.baseline, "ours": case.ours}
    if case.floor:
        calls["floor"] = case.floor
    for call in calls.values():
        call()
    # what one call takes says how often it is repeated, and how many rounds there is time for
    once = {name: seconds_of(call) for name, call in calls.items()}
    repeats = {name: max(1, round(LEAST / max(once[name], 1e-7))) for name in calls}
    units = {name: repeated(call, repeats[name]) for name, call in calls.items()}
    short = [name for name in calls if once[name] < SHORT]
    per_round = sum(once[n] * repeats[n] * (2 if n in short else 1) for n in calls)
    rounds = min(max(3, int(seconds / per_round)), 1000)
    times: dict[str, list[float]] = {name: [] for name in calls}
    others = [name for name in calls if name != "ours"]

    def warm(name: str) -> None:
        if name in short:
            units[name]()

    def time_others() -> None:
        for name in others:
            warm(name)
            times[name].append(seconds_of(units[name]))
        warm("ours")

    times["ours"] = list(run(units["ours"], time_others, rounds))
    median = {
        name: statistics.median(values) / repeats[name] * 1e3 for name, values in times.items()
    }
    on_device = {
        name: round(seconds_on_device(call, once[name]) * 1e3, 4)
        for name, call in calls.items()
        if on_gpu() and name in short
    }
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
        **({"device_ms": on_device} if on_gpu() else {}),
    }


def machine() -> dict[str, Any]:
    """Where and with what a results file was made."""
    gpu = torch.cuda.get_device_name() if on_gpu() else None
    commit = os.environ.get("COMMIT", "")  # for a copy without git
    if not commit and shutil.which("git"):
        describe = ["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty"]
        commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
    return {
        "device": gpu or "cpu",
        "cpu": cpu_name(),
        "gpu": gpu,
        "torch": torch.__version__,
        "commit": commit or None,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def cpu_name() -> str:
    """The processor's name and its widest vector instructions, as torch sees them.

    Family and model tell generations apart where the name does not ("AMD EPYC").
    """
    facts = {"model name": platform.processor() or platform.machine()}
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            facts[key.strip()] = value.strip()
    generation = ", ".join(f"{k} {facts[k]}" for k in ("cpu family", "model") if k in facts)
    name = f"{facts['model name']} ({generation})" if generation else facts["model name"]
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


HEADER = """\
| op | case | dtype | direction | ours ms | against | ms | ratio | floor ms |
| --- | --- | --- | --- | ---: | --- | ---: | ---: | ---: |"""


def milliseconds(row: dict[str, Any], call: str, digits: str = ".3g") -> str:
    """What a call took; in brackets what it took a GPU, launches aside."""
    alone = row.get("device_ms", {}).get(call)
    return f"{row[f'{call}_ms']:{digits}}" + ("" if alone is None else f" ({alone:{digits}})")


def line(row: dict[str, Any]) -> str:
    """A row of the Markdown table under HEADER."""
    floor = "" if row["floor_ms"] is None else milliseconds(row, "floor")
    case = row["case"] if row["threads"] == 1 else f"{row['case']}, {row['threads']} threads"
    return (
        f"| `{row['op']}` | {case} | {row['dtype']} | {row['direction']} "
        f"| {milliseconds(row, 'ours')} | {row['baseline']} | {milliseconds(row, 'baseline')} "
        f"| **{row['ratio']:.1f}x** | {floor} |"
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    return "\n".join([HEADER, *map(line, rows)])


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows and where they were made: what a results file holds."""
    return {**machine(), "rows": rows}


def write(rows: list[dict[str, Any]]) -> Path:
    """Writes `results/<device>-<date>.json`.

    Rows already there stay if they are of the same machine and commit and were not measured again.
    """
    new = result(rows)
    path = RESULTS / f"{new['device'].lower().replace(' ', '-')}-{new['date']}.json"
    old = json.loads(path.read_text()) if path.exists() else {"rows": []}
    if all(old.get(key) == new[key] for key in new if key != "rows"):
        keys = ("op", "case", "dtype", "direction", "threads", "baseline")
        again = {tuple(row[k] for k in keys) for row in rows}
        rows = rows + [row for row in old["rows"] if tuple(row[k] for k in keys) not in again]
    new["rows"] = sorted(rows, key=lambda row: row["op"])
    RESULTS.mkdir(exist_ok=True)
    write_json(path, new)
    return path


def write_json(path: Path, tree: Any) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(tree, indent=1) + "\n")
    os.replace(temporary, path)
