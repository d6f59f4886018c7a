"""The sentences in which operators refuse bad arguments: `op: expected X, got Y`."""

import torch
from torch import Tensor

FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INT_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_dims(op: str, name: str, tensor: Tensor, dims: str) -> None:
    """Raises ValueError unless `tensor` has as many dimensions as `dims` names.

    `dims` is like ``"N C H W"``; a number in it, as in ``"R 5"``, is required literally.
    """
    wanted = dims.split()
    fits = tensor.dim() == len(wanted) and all(
        size == int(want) for size, want in zip(tensor.shape, wanted) if want.isdigit()
    )
    if not fits:
        raise ValueError(f"{op}: expected {name} [{', '.join(wanted)}], got {list(tensor.shape)}")


def check_float(op: str, name: str, tensor: Tensor) -> None:
    """Raises TypeError unless `tensor` is fp32, fp64, fp16 or bf16."""
    if tensor.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{op}: expected {name} of a floating dtype, got {tensor.dtype}")


def check_int(op: str, name: str, tensor: Tensor) -> None:
    """Raises TypeError unless `tensor` holds integers."""
    if tensor.dtype not in INT_DTYPES:
        raise TypeError(f"{op}: expected {name} of an integer dtype, got {tensor.dtype}")


def check_size(op: str, what: str, expected: int, got: int) -> None:
    """Raises ValueError unless the two sizes are equal."""
    if expected != got:
        raise ValueError(f"{op}: expected {what} {expected}, got {got}")


def check_device(op: str, device: torch.device, **others: Tensor | None) -> None:
    """Raises ValueError naming the first of the other tensors that is not on `device`."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{op}: expected {name} on {device}, got {tensor.device}")


def check_range(op: str, name: str, index: Tensor, size: int) -> None:
    """Raises ValueError naming the first row of `index` outside [0, size).

    Only where looking costs nothing: on the CPU and outside of compiled code. Elsewhere kernels
    answer such a row with zeros and never touch memory for it.
    """
    if torch.compiler.is_compiling() or index.device.type != "cpu" or index.numel() == 0:
        return
    outside = (index < 0) | (index >= size) | (index != index)
    if outside.any():
        row = int(outside.nonzero()[0, 0])
        raise ValueError(
            f"{op}: expected {name} in [0, {size}), got {index[row].item()} in row {row}"
        )
