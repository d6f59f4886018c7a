"""Loads the operators: `_C` always, `_C_cuda` where this torch has CUDA."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

_FOLDER = Path(__file__).parent
HAS_CUDA_KERNELS = False

if not (_FOLDER / "_C.so").exists():
    raise ImportError(
        f"dynamask is not built: no _C.so in {_FOLDER}. "
        "Install it: `pip install .`, or `pip install --no-build-isolation -e .` to develop."
    )
torch.ops.load_library(str(_FOLDER / "_C.so"))
if torch.version.cuda is not None and (_FOLDER / "_C_cuda.so").exists():
    torch.ops.load_library(str(_FOLDER / "_C_cuda.so"))
    HAS_CUDA_KERNELS = True

CPU_ONLY = frozenset({"winograd_conv2d", "winograd_conv2d_weight"})  # cuDNN serves GPUs
COMPOSED: set[str] = set()  # operators whose CUDA seat is made of other operators

Composition = TypeVar("Composition", bound=Callable[..., Any])


def composed_on_cuda(schema: str) -> Callable[[Composition], Composition]:
    """Puts a function made of other operators into the CUDA seat of an operator."""

    def register(function: Composition) -> Composition:
        torch.library.impl(f"dynamask::{schema}", "cuda")(function)
        COMPOSED.add(schema)
        return function

    return register
