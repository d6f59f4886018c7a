"""Triton kernels on tensors of the CPU: to be interpreted, or to be compiled for no GPU."""

from torch.utils._python_dispatch import TorchDispatchMode

from dynamask import _triton


class InTriton(TorchDispatchMode):
    """Operators that have a Triton kernel run that, whatever the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        schema = function._schema.name.removeprefix("dynamask::")
        if schema in _triton.OPERATORS:
            module = f"dynamask.kernels.{_triton.OPERATORS[schema]}"
            return _triton.Seat(schema, module, None)(None, *args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))
