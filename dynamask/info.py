"""What is installed, which kernels run, and what a run or weights file holds."""

from __future__ import annotations

import os
import shutil
import textwrap
from pathlib import Path
from typing import Any

import torch

from dynamask.checkpoint import build_model, find_weights, read_weights
from dynamask.config import load_config
from dynamask.run_folder import environment

# What each variant of the CPU kernels needs of the processor, in the order of preference.
INSTRUCTION_SETS: dict[str, set[str]] = {
    "baseline": set(),
    "avx2": {"avx2", "fma"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx512bf16": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"},
}

SEATS = ("Triton", "CUDA C++", "composition", "none")  # who can serve an operator on a GPU


def info(
    source: str | None = None,
    *,
    flops: bool = False,
    model: str = "dynamask_r50",
    num_classes: int = 80,
) -> dict[str, Any]:
    """Facts as one tree that goes through JSON.

    Args:
        source: A run folder, weights file or name of bundled weights to describe.
        flops: Measure what each mask size costs, in ``source``'s network or else in ``model``.
        model: Name of a preset of dynamask.models.presets.
        num_classes: Classes of that model.
    """
    facts: dict[str, Any] = {}
    config = load_config(overrides={"model.name": model})
    if source is not None:
        facts["weights"] = describe_weights(source)
        config = read_weights(source)[1].config
        num_classes = len(facts["weights"]["classes"])
    if flops:
        facts["flops"] = mask_flops(build_model(config, num_classes), config.model.name)
    if not facts:
        facts |= environment()
        facts["kernels"] = kernels()
    return facts


def describe_weights(source: str) -> dict[str, Any]:
    """The model card of a run or weights file."""
    tensors, meta = read_weights(source)
    path = find_weights(source)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "version": meta.version,
        "model": meta.config.model.name,
        "parameters": sum(t.numel() for t in tensors.values()),
        "classes": meta.classes,
        "category_ids": meta.category_ids,
        "config": meta.config.to_dict(),
        **meta.notes,
    }


def mask_flops(model: Any, name: str) -> dict[str, Any]:
    """Multiply-accumulates of one mask of each size, counted by hooks while it is made.

    As in the paper: convolutions and linear layers count, deformable ones as the dense ones, and
    the switch and what runs once per image do not.
    """
    from dynamask.models.macs import measure_mask_macs

    branch = model.mask_branch
    sizes = list(getattr(branch, "sizes", ())) or [getattr(branch, "mask_size", 28)]
    macs = measure_mask_macs(branch)
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "masks": [{"size": size, "macs": int(m)} for size, m in zip(sizes, macs)],
        "switch": _switch_macs(branch),
    }


def kernels() -> dict[str, Any]:
    """Which compiled operators run on this machine, and why not others."""
    from dynamask import _library

    return {
        "library": str(Path(_library.__file__).parent / "_C.so"),
        "cpu": instruction_set(),
        "cuda": cuda_kernels(),
        "triton": triton_kernels(),
        "operators": cuda_seats(),
    }


def instruction_set() -> str:
    """The variant of the CPU kernels that runs, by the rule of csrc/cpu/instruction_set.cpp."""
    flags = _cpu_flags()
    best = "baseline"
    for name, needed in INSTRUCTION_SETS.items():
        if needed <= flags:
            best = name
    order = list(INSTRUCTION_SETS)
    wanted = os.environ.get("DYNAMASK_SIMD")
    if wanted in order and order.index(wanted) < order.index(best):
        return f"{wanted} (DYNAMASK_SIMD; this machine could do {best})"
    return best


def cuda_kernels() -> str:
    """Whether the CUDA library is loaded, and if not, why."""
    from dynamask import _library

    if _library.HAS_CUDA_KERNELS:
        if torch.cuda.is_available():
            return f"loaded, {torch.cuda.get_device_name(0)}"
        return "loaded, but this machine has no GPU that torch can use"
    if torch.version.cuda is None:
        return f"not loaded: torch {torch.__version__} is a build without CUDA"
    return "not built: install with nvcc and a CUDA torch (DYNAMASK_CUDA=1 says what is missing)"


def triton_kernels() -> str:
    """Whether Triton kernels are used, and if not, why."""
    from dynamask import _triton

    reason = _triton.why_not()
    return "used" if reason is None else f"not used: {reason}"


def cuda_seats() -> dict[str, dict[str, str | None]]:
    """What serves each operator on a GPU, and why that is not Triton.

    ``{"nms": {"cuda": "CUDA C++", "why": "no Triton kernel"}}``; a seat is ``"Triton"``,
    ``"CUDA C++"``, ``"composition"`` (of other operators) or ``"none"``.
    """
    import dynamask.ops  # noqa: F401  (takes the seats)

    return {schema: dict(zip(("cuda", "why"), _cuda_seat(schema))) for schema in sorted(_schemas())}


def _cuda_seat(schema: str) -> tuple[str, str | None]:
    from dynamask import _library, _triton

    seat = _triton.SEATS.get(schema)
    if seat is not None and seat.failure is None:
        return "Triton", None
    why = "no Triton kernel"
    if schema in _triton.OPERATORS:
        why = seat.failure if seat is not None and seat.failure else f"Triton is {triton_kernels()}"
    if schema in _library.COMPOSED:
        return "composition", why
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key(f"dynamask::{schema}", "CUDA")
    if has_kernel and (seat is None or seat.below is not None):
        return "CUDA C++", why
    if schema in _library.CPU_ONLY:
        return "none", "for the CPU"
    is_built = _library.HAS_CUDA_KERNELS
    return "none", f"{why}; {'no kernel in CUDA C++' if is_built else 'CUDA C++ is not loaded'}"


def print_info(facts: dict[str, Any]) -> None:
    """The facts for a person."""
    if "weights" in facts:
        card = facts["weights"]
        print(f"{card['file']}  ({card['bytes'] / 1e6:.1f} MB, dynamask {card['version']})")
        print(f"  model       {card['model']}, {card['parameters'] / 1e6:.2f} M parameters")
        print(f"  data        {card['config']['data']['source']}")
        print(f"  classes     {len(card['classes'])}: {', '.join(card['classes'])}")
        for name, value in card.get("metrics", {}).items():
            if value is not None:
                shown = f"{value:.4g}" if isinstance(value, float) else value
                print(f"  {name:12}{shown}")
    if "flops" in facts:
        flops = facts["flops"]
        print(f"{flops['model']}  ({flops['parameters'] / 1e6:.1f} M parameters)")
        print("  mask size   G multiply-accumulates per instance")
        for mask in flops["masks"]:
            print(f"  {mask['size']:<11} {mask['macs'] / 1e9:.4f}")
        if flops["switch"] is not None:
            print(f"  {'the switch':11} {flops['switch'] / 1e9:.4f}  (not counted above)")
    if "versions" in facts:
        for name, version in facts["versions"].items():
            print(f"{name:18}{version or 'not installed'}")
        print(f"{'commit':18}{facts['commit'] or 'unknown'}")
        print(f"{'system':18}{facts['system']}")
        print(f"{'cpu':18}{facts['cpu']}, {facts['threads']} threads")
        print(f"{'gpu':18}{', '.join(facts['gpus']) or 'none'}")
        print(f"{'cpu kernels':18}{facts['kernels']['cpu']}")
        print(f"{'cuda kernels':18}{facts['kernels']['cuda']}")
        print(f"{'triton kernels':18}{facts['kernels']['triton']}")
        print("operators on a GPU")
        _print_seats(facts["kernels"]["operators"])


def _print_seats(seats: dict[str, dict[str, str | None]]) -> None:
    """The operators of each seat together, and those that are there for the same reason."""
    groups: dict[tuple[str, str | None], list[str]] = {}
    for schema, found in seats.items():
        groups.setdefault((str(found["cuda"]), found["why"]), []).append(schema)
    width = max(60, shutil.get_terminal_size().columns) - 18
    for (seat, why), schemas in sorted(groups.items(), key=lambda group: SEATS.index(group[0][0])):
        lines = textwrap.wrap(", ".join(schemas), width)
        lines += [] if why is None else textwrap.wrap(f"({why})", width)
        for label, line in zip([f"  {seat}", *[""] * len(lines)], lines):
            print(f"{label:18}{line}")


def _switch_macs(branch: Any) -> int | None:
    from dynamask.models.macs import count_macs

    selector = getattr(branch, "selector", None)
    if selector is None:
        return None
    switch = selector.switch
    was_training = switch.training
    switch.eval()
    channels = branch.in_channels
    side = {"p2_28": 28, "p2_56": 56}.get(branch.switch_input, 14)
    with torch.no_grad(), count_macs(switch) as count:
        switch(next(switch.parameters()).new_zeros(1, channels, side, side))
    switch.train(was_training)
    return count.total


def _schemas() -> set[str]:
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix("dynamask::") for name in names if name.startswith("dynamask::")}


def _cpu_flags() -> set[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    except OSError:
        pass
    return set()
