"""Times block sizes of the Triton kernels against those in their tables: `make tune`.

For each kernel and shape (`tune_subjects.py`) the candidates take the place of the table's entry:
each is compiled, many side by side, and its result held against the entry's; then all are recorded
as CUDA graphs and replayed in turn, with the CUDA C++ below the kernel. What does not compile or
fit, or gives another result, is told with its reason. Where Triton interprets (TRITON_INTERPRET=1)
all this goes through at tiny shapes on the CPU, and the times mean nothing.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dynamask import _triton
from dynamask.benchmarks import gpu, harness
from dynamask.benchmarks.tune_subjects import INTERPRETED, SUBJECTS, Sizes, Subject

ROUNDS = 1 if INTERPRETED else 15
PATIENCE = 90  # seconds for all candidates of a subject: a compiler that dies never answers
BELOW = "CUDA C++"  # in place of sizes
Row = dict[str, Any]


@contextmanager
def replaced(subject: Subject, candidate: Sizes) -> Iterator[Sizes]:
    """While it is entered a candidate is in the table; gives what a call finds there."""
    home = subject.home
    numbers = dict.fromkeys(k for one in subject.candidates for k in one if hasattr(home, k))
    found = {k: candidate.get(k, getattr(home, k)) for k in numbers}
    patches: dict[str, Any] = dict(found)
    if subject.table:
        table = getattr(home, subject.table)

        def sizes(*arguments: Any) -> Sizes:
            entry = {k: candidate.get(k, v) for k, v in table(*arguments).items()}
            found.update(entry)
            return entry

        patches[subject.table] = sizes
    with mock.patch.multiple(home, **patches):
        yield found


@contextmanager
def noted(launched: list[Any]) -> Iterator[None]:
    """Notes the compiled kernels that are launched."""
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def noting(*arguments: Any, **options: Any) -> Any:
        launched.append(run(*arguments, **options))
        return launched[-1]

    with mock.patch.object(JITFunction, "run", noting):
        yield


def result_of(call: Callable[[], Any]) -> list[Tensor]:
    """What it returns, NaN where it leaves memory as it was."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        return [x for x in tree_leaves(call()) if isinstance(x, Tensor) and x.numel() > 0]
    finally:
        torch.use_deterministic_algorithms(False)


@lru_cache(maxsize=1)
def prepared(name: str) -> tuple[Callable[[], Any], tuple, list[Tensor]]:
    """The call of a subject, its arguments, and what it returns with the table's entry."""
    torch.manual_seed(0)
    subject = SUBJECTS[name]
    arguments = subject.make()
    call = partial(getattr(subject.home, subject.function), *arguments, **dict(subject.options))
    return call, arguments, result_of(call)


def assert_alike(got: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    """Within a share of the largest value."""
    for a, b in zip(got, expected, strict=True):
        a, b = a.float(), b.float()
        worst = (a - b).nan_to_num().abs().max() / b.nan_to_num().abs().max()
        assert torch.equal(a.isnan(), b.isnan()), "leaves other memory as it was"
        assert worst <= tolerance, f"differs by {worst:.2g} of the largest value"


def why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def attempt(name: str, candidate: Sizes) -> Row:
    """Compiles a candidate, runs it and looks at its result: a row that is not timed yet."""
    subject, launched, row = SUBJECTS[name], [], {"sizes": candidate}
    try:
        call, _, expected = prepared(name)
        with replaced(subject, candidate) as row["sizes"], noted(launched):
            assert_alike(result_of(call), expected, subject.tolerance)
    except Exception as error:  # of the compiler, the driver or the device
        row["why_not"] = why(error)
    for kernel in launched[:1]:  # a call launches one
        row |= {"registers": kernel.n_regs, "spills": kernel.n_spills}
        row["shared"] = kernel.metadata.shared
    return row


def recorded(call: Callable[[], Any], pool: Any) -> tuple[Callable[[], Any], int]:
    """As a graph, and how many calls that holds: about a millisecond's."""
    if INTERPRETED:
        return call, 1
    call()
    once = max(harness.seconds_of(call), 2e-5)
    calls, graph = min(50, round(1e-3 / once) + 1), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        for _ in range(calls):
            call()
    return graph.replay, calls


def milliseconds(run: Callable[[], Any]) -> float:
    if INTERPRETED:
        return harness.seconds_of(run) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def time_in_turn(name: str, found: list[Row]) -> None:
    """Adds to each row that could run its median, and what share of the entry's that is."""
    subject, runs = SUBJECTS[name], []
    call, arguments, expected = prepared(name)
    pool = None if INTERPRETED else torch.cuda.graph_pool_handle()
    for row in (row for row in found if "why_not" not in row):
        try:
            if row["sizes"] == BELOW:
                keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
                below = _triton.SEATS[subject.function].below
                native = partial(below.call_boxed, keys, *arguments)
                assert_alike(result_of(native), expected, subject.tolerance)
                runs.append((row, *recorded(native, pool)))
            else:
                with replaced(subject, row["sizes"]):
                    runs.append((row, *recorded(call, pool)))
        except Exception as error:
            row["why_not"] = why(error)
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for (_, run, calls), taken in zip(runs, times):
            taken.append(milliseconds(run) / calls)
    for (row, _, _), taken in zip(runs, times):
        row["ms"] = round(statistics.median(taken), 5)
        row["relative"] = round(row["ms"] / runs[0][0]["ms"], 3)


def tune(name: str, pool: Any) -> list[Row]:
    """The rows of a subject, the table's entry first."""
    subject, entry = SUBJECTS[name], attempt(name, {})
    if "why_not" in entry:
        return [entry]
    candidates = [{k: v for k, v in c.items() if k in entry["sizes"]} for c in subject.candidates]
    wanted = {tuple(sorted({**entry["sizes"], **c}.items())): c for c in candidates}
    wanted.pop(tuple(sorted(entry["sizes"].items())), None)
    found, waiting = [entry], [(c, pool.apply_async(attempt, (name, c))) for c in wanted.values()]
    end = time.monotonic() + PATIENCE
    for candidate, result in waiting:
        try:
            found.append(result.get(max(0.0, end - time.monotonic())))
        except multiprocessing.TimeoutError:
            found.append({"sizes": candidate, "why_not": f"not compiled in {PATIENCE} s"})
    if not INTERPRETED and getattr(_triton.SEATS.get(subject.function), "below", None):
        found.append({"sizes": BELOW})
    time_in_turn(name, found)
    return found


def table(name: str, found: Sequence[Row], most: int = 8) -> str:
    """The entry, CUDA C++, the fastest, and why others could not run."""
    timed = sorted((row for row in found if "ms" in row), key=lambda row: row["ms"])
    lines = [f"{name}: {len(found)} candidates", "   ratio       us  regs spill  shared  sizes"]
    for k, row in enumerate(timed):
        if k < most or row is found[0] or row["sizes"] == BELOW:
            resources = [row.get(x, "") for x in ("registers", "spills", "shared")]
            sizes = row["sizes"]
            what = sizes if sizes == BELOW else " ".join(f"{a}={b}" for a, b in sizes.items())
            what += "  <- the table's entry" if row is found[0] else ""
            numbers = f"{row['relative']:8.3f} {row['ms'] * 1e3:8.1f}"
            lines.append("{} {:>5} {:>5} {:>7}  {}".format(numbers, *resources, what))
    reasons = Counter(row["why_not"] for row in found if "why_not" in row)
    return "\n".join([*lines, *(f"   {count} x {why}" for why, count in reasons.most_common(5))])


def ceilings(side: int = 8192) -> dict[str, float]:
    """What the GPU reaches at its best: a product in bf16, and a copy that no cache holds."""
    x, big = torch.randn(side, side).bfloat16(), torch.randn(8 * side * side)
    product = harness.seconds_on_device(lambda: x @ x, 1e-3)
    copy = harness.seconds_on_device(big.clone, 1e-3)
    return {"TFLOP/s": 2 * side**3 / product / 1e12, "TB/s": 2 * big.nbytes / copy / 1e12}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of subjects")
    parser.add_argument("--minutes", type=float, default=8.5, help="no subject starts after them")
    given = parser.parse_args(arguments)
    if not (INTERPRETED or torch.cuda.is_available()):
        parser.error("torch finds no GPU here; TRITON_INTERPRET=1 tries it all without one")
    end, tables = time.monotonic() + 60 * given.minutes, {}
    device = "cpu" if INTERPRETED else "cuda"
    harness.use(device)
    machine = {**harness.machine(), **({} if INTERPRETED else ceilings())}
    print(machine)
    file = f"tune-{machine['device'].lower().replace(' ', '-')}-{machine['date']}.json"
    spawning = multiprocessing.get_context("spawn").Pool
    pools = ThreadPool(1) if INTERPRETED else spawning(gpu.workers(), harness.use, (device,))
    with pools as pool:
        for name in (n for n in SUBJECTS if any(part in n for part in given.only)):
            if time.monotonic() > end:
                print(f"{name}: no time was left")
                continue
            tables[name] = tune(name, pool)
            print(table(name, tables[name]), flush=True)
            prepared.cache_clear()
            folder = Path(os.environ.get("OUT") or harness.RESULTS)
            harness.write_json(folder / file, {**machine, "tables": tables})


if __name__ == "__main__":
    main()
