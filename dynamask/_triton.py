"""Puts the Triton kernels of `kernels/` over the CUDA seats of their operators."""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Each schema with a Triton kernel, and the module of kernels/ that has a function of its name.
OPERATORS = {
    "class_logits": "class_logits",
    "grouped_mask_head": "grouped_mask_head",
    "deform_conv2d": "deform_conv2d",
    "deform_conv2d_backward": "deform_conv2d_backward",
    "feature_aggregation": "feature_aggregation",
    "mask_edge_loss": "mask_edge_loss",
    "mask_edge_loss_backward": "mask_edge_loss",
}

_library: torch.library.Library | None = None  # registrations last as long as it does


def why_not() -> str | None:
    """Why no Triton kernel is used, or None if they are."""
    if os.environ.get("DYNAMASK_TRITON") == "0":
        return "switched off by DYNAMASK_TRITON=0"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return _why_no_launcher()


def _why_no_launcher() -> str | None:
    """Why Triton cannot build the small C module that starts a kernel, by its own rules."""
    compiler = os.environ.get("CC")
    if compiler is not None and shutil.which(compiler) is None:
        return f"Triton needs a C compiler: CC={compiler} is no program"
    if compiler is None and not (shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler: neither CC is set nor is there gcc or clang"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    headers = Path(sysconfig.get_paths(scheme)["include"])
    if not (headers / "Python.h").exists():
        return f"Triton needs the C headers of Python: there is no Python.h in {headers}"
    return None


class Seat:
    """A Triton kernel in the seat of an operator, over the kernel that had it before, if any did.

    The one below serves the calls whose floating dtypes the Triton kernel does not take, and all
    calls once that kernel could not be built.
    """

    def __init__(self, schema: str, module: str, below: Any) -> None:
        self.schema, self.module, self.below = schema, module, below
        self.failure: str | None = None

    def __call__(self, keys: Any, *arguments: Any, **options: Any) -> Any:
        tensors = _tensors_of((*arguments, *options.values()))
        if self.failure is None:
            try:
                kernels = importlib.import_module(self.module)
                if all(x.dtype in kernels.DTYPES for x in tensors if x.is_floating_point()):
                    with torch.cuda.device_of(tensors[0]):
                        return getattr(kernels, self.schema)(*arguments, **options)
            except Exception as error:
                if not _is_of_the_build(error):
                    raise
                self._fall_back(error)
        if self.below is None:
            dtypes = ", ".join(sorted({str(x.dtype) for x in tensors if x.is_floating_point()}))
            raise NotImplementedError(
                f"{self.schema}: no CUDA kernel for {dtypes}: "
                f"{self.failure or 'the Triton kernel takes others'}, and there is none in CUDA C++"
            )
        return self.below.call_boxed(keys, *arguments, **options)

    def _fall_back(self, error: Exception) -> None:
        self.failure = f"Triton could not build it: {type(error).__name__}: {error}"
        if self.below is not None:
            warnings.warn(
                f"dynamask: {self.schema} runs without its Triton kernel. {self.failure}",
                RuntimeWarning,
                stacklevel=3,
            )


SEATS: dict[str, Seat] = {}


def register() -> None:
    """Once, over all base seats; a kernel is imported when it is first called."""
    global _library
    if why_not() is not None:
        return
    _library = torch.library.Library("dynamask", "IMPL")
    for schema, module in OPERATORS.items():
        SEATS[schema] = take_seat(_library, "CUDA", schema, f"dynamask.kernels.{module}")


def take_seat(library: torch.library.Library, key: str, schema: str, module: str) -> Seat:
    """Puts the kernel of a module over the one that an operator has for a dispatch key."""
    name = f"{library.ns}::{schema}"
    is_taken = torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    seat = Seat(schema, module, torch.library.get_kernel(name, key) if is_taken else None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")
        library.impl(schema, seat, key, with_keyset=True, allow_override=True)
    return seat


def _tensors_of(arguments: tuple) -> list[Tensor]:
    """Those that are tensors, and those of lists."""
    lists = (x if isinstance(x, (list, tuple)) else (x,) for x in arguments)
    return [x for one in lists for x in one if isinstance(x, Tensor)]


def _is_of_the_build(error: Exception) -> bool:
    """Whether a kernel could not be built or loaded, rather than failed at its work."""
    if type(error) is RuntimeError:
        signs = ("C compiler", "PassManager", "Triton Error [CUDA]: device kernel image")
        return any(sign in str(error) for sign in signs)
    if isinstance(error, (ImportError, OSError, subprocess.CalledProcessError)):
        return True
    from triton.errors import TritonError

    return isinstance(error, TritonError)
