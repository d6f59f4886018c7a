"""Which device a program runs on."""

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
