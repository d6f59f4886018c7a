"""Which device a program runs on, and in which precision."""

import torch

from dynamask.errors import InputError


def pick_device(name: str) -> torch.device:
    """The device of that name; auto: the first GPU, or the CPU where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device: {name!r} cannot be used: {reason}; fix: --device cpu") from error
    return device


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def pick_dtype(precision: str) -> torch.dtype:
    """The dtype of weights and feature maps for fp32 or bf16."""
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise InputError(f"precision: expected one of {known}, got {precision!r}")
    return PRECISIONS[precision]
