"""Ours against what a user would pick instead, on this machine: `dynamask bench`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from dynamask.config_values import did_you_mean
from dynamask.errors import InputError

MODEL = ("dynamic_mask_head", "model")  # the other files are about operators


def bench(
    subject: str,
    *,
    names: Sequence[str] = (),
    threads: int = 1,
    seconds: float = 1.0,
    json: str | None = None,
) -> list[dict[str, Any]]:
    """Runs the cases of ``benchmarks/`` and prints a Markdown table row by row.

    Args:
        subject: ``"ops"``: the operators; ``"model"``: the mask branch, whole models, and where
            their time goes.
        names: Stems of the files in ``benchmarks/``, such as ``"nms"``; all if none are given.
        threads: Threads of torch and of our kernels.
        seconds: Time for each case.
        json: A file for the rows, in the format of ``benchmarks/results``.

    Returns:
        The rows: see ``benchmarks/harness.py``.

    Raises:
        InputError: if there is no such name, or what the baselines need is not installed.
        RuntimeError: if ours and the baseline do not agree somewhere; that case gets no number.
    """
    harness = _load("harness")
    modules = _bench_modules(subject, names)
    torch.set_num_threads(threads)
    rows, failed = [], []
    print(harness.HEADER)
    for case in (case for module in modules for case in module.cases()):
        try:
            rows.append(harness.measure(case, seconds))
        except AssertionError as error:
            failed.append(f"{case}: {error}")
            print(f"| `{case.op}` | {case.case} | {case.dtype} | {case.direction} | wrong |||||")
        else:
            print(harness.line(rows[-1]), flush=True)
    if json is not None:
        harness.write_json(Path(json), harness.result(rows))
    if subject == "model":
        print("\n" + _load("model_profile").report())
    if failed:
        raise RuntimeError("bench: ours and the baseline differ\n" + "\n".join(failed))
    return rows


def _bench_modules(subject: str, names: Sequence[str]) -> list[ModuleType]:
    import dynamask.benchmarks

    found = {module.name for module in pkgutil.iter_modules(dynamask.benchmarks.__path__)}
    stems = sorted(name[6:] for name in found if name.startswith("bench_"))
    stems = [stem for stem in stems if (stem in MODEL) == (subject == "model")]
    for name in names:
        if name not in stems:
            hint = did_you_mean(name, stems) or f"; there are {', '.join(stems)}"
            raise InputError(f"bench: no {subject} benchmark '{name}'{hint}")
    return [_load(f"bench_{stem}") for stem in names or stems]


def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"dynamask.benchmarks.{name}")
    except ModuleNotFoundError as error:
        raise InputError(
            f"bench: {error.name} is missing, which the baselines need; "
            "install it with: pip install 'dynamask-seg[bench]'"
        ) from None
