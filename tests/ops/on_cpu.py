"""For what must equal the bits of the CPU, whatever the device of a test."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


def on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function run on the CPU, its results moved to the default device."""

    def run(*args: Any, **options: Any) -> Any:
        args, options = tree_map_only(Tensor, Tensor.cpu, (args, options))
        device = torch.empty(0).device
        with torch.device("cpu"):
            result = function(*args, **options)
        return tree_map_only(Tensor, lambda x: x.to(device), result)

    return run
