"""Puts the Triton kernels of `kernels/` into the CUDA seats of their operators."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

OPERATORS = ("class_logits",)


def why_not() -> str | None:
    """Why Triton kernels are not used, or None if they are."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None


def register() -> None:
    """Once, when the library is loaded; a kernel is imported when it is first called."""
    if why_not() is None:
        for name in OPERATORS:
            torch.library.impl(f"dynamask::{name}", "cuda")(_on_its_device(name))


def _on_its_device(name: str) -> Callable[..., Any]:
    def run(x: torch.Tensor, *arguments: Any) -> Any:
        kernel = getattr(importlib.import_module(f"dynamask.kernels.{name}"), name)
        with torch.cuda.device(x.device):
            return kernel(x, *arguments)

    return run
