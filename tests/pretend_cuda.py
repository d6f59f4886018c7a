"""A device that says it is CUDA and is the CPU: ``pytest --pretend-cuda -k pretend tests``.

Every tensor on the default device, or moved to CUDA, says that it is on ``cuda:0``, refuses to meet
a tensor of the CPU and has no ``numpy()``, like a real one. What it computes runs on the CPU. A
graph remembers the calls of a capture and makes them again in the same tensors; while it captures,
or where synchronisation is an error, a call that would wait for the device raises.

Proven: the Python of the tests and of the operators' faces keeps to one device, names no CPU by
accident (generators, indices, constants), takes the branches meant for a GPU, and waits nowhere
that it should not.

Not proven: anything about a kernel for GPUs, streams, or Python below the dispatcher (gradients,
compositions in CUDA seats, what torch.compile makes), where tensors are those of the CPU.
"""

import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _device
from torch.utils._pytree import tree_leaves

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
MAY_MIX = {
    torch.Tensor.to,
    torch.Tensor.copy_,
    torch.Tensor.type_as,
    torch.Tensor.__getitem__,  # an index may be on the CPU
    torch.Tensor.__setitem__,
    torch.Tensor.__deepcopy__,  # whose memory of other copies may hold any
    torch.tensor,
    torch.as_tensor,
}

WAITING = {
    *(torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.nonzero),
    *(torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.__index__),
    *(torch.nonzero, torch.unique, torch.masked_select, torch.Tensor.masked_select),
    *(torch.tensor, torch.as_tensor, torch.Tensor.new_tensor),  # copies from the host
    *(torch.equal, torch.allclose),
}


def is_pretending(x: torch.Tensor) -> bool:
    """Whether a tensor says that it is on CUDA."""
    return isinstance(x, torch.nn.Parameter) or getattr(x, "pretends", False)


class PretendCuda(TorchFunctionMode):
    """While it is entered, the CPU plays the part of a GPU, which may be the default device."""

    def __init__(self) -> None:
        super().__init__()
        self.may_wait = True
        self.recording: list[tuple] | None = None
        self.patches = mock.patch.multiple(
            torch.cuda,
            CUDAGraph=PretendGraph,
            graph=self.graph,
            set_sync_debug_mode=self.set_sync_debug_mode,
            graph_pool_handle=lambda: None,
            device=lambda device: nullcontext(),
            Stream=lambda *device: mock.MagicMock(),
            stream=lambda stream: nullcontext(),
            current_stream=mock.MagicMock,
            is_initialized=lambda: True,
            is_current_stream_capturing=lambda: self.recording is not None,
            synchronize=lambda: None,
            Event=PretendEvent,
            get_device_name=lambda: "pretended",
            _sleep=lambda cycles: None,
        )

    def __enter__(self) -> "PretendCuda":
        self.patches.start()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        self.patches.stop()
        super().__exit__(*error)

    def set_sync_debug_mode(self, mode: str) -> None:
        self.may_wait = mode != "error"

    @contextmanager
    def graph(self, graph: "PretendGraph", *options: Any, **more: Any):
        """A capture, which here runs what it records."""
        self.may_wait, self.recording = False, graph.calls
        try:
            yield
        finally:
            self.may_wait, self.recording = True, None

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = kwargs or {}
        kwargs = dict(given)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        pretending = [x for x in tensors if is_pretending(x)]
        if pretending:
            refuse_to_mix(function, args, tensors)
            if function in (torch.Tensor.numpy, torch.Tensor.__array__):
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            if function in ATTRIBUTES:
                return ATTRIBUTES[function]
        device = device_of_result(function, args, kwargs, pretending)
        if not self.may_wait and waits(function, args, pretending, device):
            raise RuntimeError(f"waits for the device: {function}")
        original = function, args
        if device == CUDA and getattr(kwargs.get("generator"), "device", CUDA) == CPU:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if "device" in kwargs or function in _device._device_constructors():
            kwargs["device"] = as_cpu(kwargs.get("device") or device)
        same = all(device == (CUDA if is_pretending(x) else CPU) for x in tensors)
        if function in (torch.Tensor.to, torch.Tensor.cpu):
            named = map(as_cpu, args[1:]) if function is torch.Tensor.to else [CPU]
            function, args = torch.Tensor.to, (args[0], *named)
            kwargs["copy"] = kwargs.get("copy", False) or not same
        elif function is torch.Tensor.cuda:
            function, args = torch.Tensor.clone, args[:1]
        result = function(*args, **kwargs)
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and device == CUDA:
                x.pretends = True
        if self.recording is not None:
            self.recording.append((*original, given, result))
        return result


class PretendGraph:
    """Stands for torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], tuple, dict, Any]] = []

    def replay(self) -> None:
        """Makes the calls again; their results go where they went in the capture."""
        for function, args, kwargs, results in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)


class PretendEvent:
    """Stands for torch.cuda.Event."""

    def __init__(self, **options: bool) -> None:
        self.time = 0.0

    def record(self) -> None:
        self.time = time.perf_counter()

    def wait(self) -> None:
        """Nothing is ever late here."""

    def elapsed_time(self, end: "PretendEvent") -> float:
        """Milliseconds."""
        return (end.time - self.time) * 1e3


def pytest_configure(config) -> None:
    """With `-p pretend_cuda` a whole run has the device, one of benchmarks for example."""
    PretendCuda().__enter__()


def waits(function, args, pretending, device) -> bool:
    """Whether the host would wait for a real device in a call."""
    if function is torch.Tensor.to:
        return device != as_device(args[0])
    if function is torch.Tensor.__getitem__:
        index = tree_leaves(args[1])
        return any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in index)
    if function in (torch.repeat_interleave, torch.Tensor.repeat_interleave):
        return len(pretending) > 1  # counts on the device
    return function in WAITING and (bool(pretending) or device == CUDA)


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
    if function in _device._device_constructors():
        return as_device(_device.CURRENT_DEVICE or CPU)
    if function is torch.Tensor.cpu:
        return CPU
    if function is torch.Tensor.cuda:
        return CUDA
    if function in (torch.Tensor.to, torch.Tensor.type_as):
        named = [as_device(x) for x in args[1:] if as_device(x) is not None]
        return named[0] if named else as_device(args[0])
    if function in MAY_MIX and args and isinstance(args[0], torch.Tensor):
        return as_device(args[0])
    return CUDA if pretending else CPU
