"""Loads the operators: `_C` always, `_C_cuda` and Triton kernels where this torch has CUDA."""

from pathlib import Path

import torch

from dynamask import _triton

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
_triton.register()
