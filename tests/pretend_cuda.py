"""A device that says it is CUDA and is the CPU: ``pytest tests/ops --pretend-cuda``.

Every tensor that a test or an operator makes without naming the CPU says that it is on ``cuda:0``,
refuses to meet a tensor of the CPU and has no ``numpy()``, like a real one. What it computes runs
on the CPU.

Proven: the Python of the tests and of the operators' faces keeps to one device, names no CPU by
accident (generators, indices, constants), and takes the branches meant for a GPU.

Not proven: anything about a kernel for GPUs, streams, synchronisation, or Python below the
dispatcher (gradients, fake kernels, what torch.compile makes), where tensors are those of the CPU.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_leaves

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
MAY_MIX = {
    torch.Tensor.to,
    torch.Tensor.copy_,
    torch.Tensor.type_as,
    torch.Tensor.__getitem__,  # an index may be on the CPU
    torch.Tensor.__setitem__,
    torch.tensor,
    torch.as_tensor,
}


def is_pretending(x: torch.Tensor) -> bool:
    """Whether a tensor says that it is on CUDA."""
    return isinstance(x, torch.nn.Parameter) or getattr(x, "pretends", False)


class PretendCuda(TorchFunctionMode):
    """While it is entered, CUDA is the default device, and the CPU plays its part."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        pretending = [x for x in tensors if is_pretending(x)]
        if pretending:
            refuse_to_mix(function, args, tensors)
            if function in (torch.Tensor.numpy, torch.Tensor.__array__):
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            if function in ATTRIBUTES:
                return ATTRIBUTES[function]
        device = device_of_result(function, args, kwargs, pretending)
        if device == CUDA and getattr(kwargs.get("generator"), "device", CUDA) == CPU:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if "device" in kwargs:
            kwargs["device"] = as_cpu(kwargs["device"])
        same = all(device == (CUDA if is_pretending(x) else CPU) for x in tensors)
        if function is torch.Tensor.cpu or (function is torch.Tensor.to and not same):
            kwargs["copy"] = True
            function = torch.Tensor.to
            args = (args[0], *map(as_cpu, args[1:])) if len(args) > 1 else (args[0], CPU)
        elif function is torch.Tensor.to:
            args = tuple(map(as_cpu, args))
        elif function is torch.Tensor.cuda:
            function, args = torch.Tensor.clone, args[:1]
        result = function(*args, **kwargs)
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and device == CUDA:
                x.pretends = True
        return result


ATTRIBUTES = {
    torch.Tensor.device.__get__: CUDA,
    torch.Tensor.is_cuda.__get__: True,
    torch.Tensor.is_cpu.__get__: False,
    torch.Tensor.get_device: 0,
}


def as_device(x: object) -> torch.device | None:
    """The device that an argument names, if it does."""
    if isinstance(x, torch.Tensor):
        return CUDA if is_pretending(x) else x.device
    if isinstance(x, str | torch.device):
        device = torch.device(x)
        return CUDA if device.type == "cuda" else device
    return None


def as_cpu(x: object) -> object:
    """An argument of `to`, or the value of `device=`, with CUDA replaced by the CPU."""
    names_cuda = isinstance(x, str | torch.device) and as_device(x) == CUDA
    return CPU if names_cuda else x


def refuse_to_mix(function, args, tensors) -> None:
    """Tensors of the CPU must be numbers, except where torch lets devices meet."""
    if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
        plain = not is_pretending(args[0])
    else:
        plain = any(not is_pretending(x) and x.device == CPU and x.dim() > 0 for x in tensors)
    if plain and (function not in MAY_MIX or function is torch.Tensor.__getitem__):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! (in {getattr(function, '__name__', function)})"
        )


def device_of_result(function, args, kwargs, pretending) -> torch.device:
    """Where a real device would have put what a call returns."""
    if kwargs.get("device") is not None:
        return as_device(kwargs["device"])
    if function in _device_constructors():
        return CUDA
    if function is torch.Tensor.cpu:
        return CPU
    if function is torch.Tensor.cuda:
        return CUDA
    if function in (torch.Tensor.to, torch.Tensor.type_as):
        named = [as_device(x) for x in args[1:] if as_device(x) is not None]
        return named[0] if named else as_device(args[0])
    if function in (torch.Tensor.copy_, torch.Tensor.__setitem__, torch.Tensor.__getitem__):
        return as_device(args[0])
    return CUDA if pretending else CPU
