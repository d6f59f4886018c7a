"""What the tests of this folder share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from dynamask._library import CPU_ONLY

from ..ops.samples import SAMPLES

ON_CUDA = sorted(SAMPLES.keys() - CPU_ONLY)


class Captured:
    """A call as a CUDA graph: replay() makes it again with what its tensors hold by then."""

    def __init__(self, call: Callable[[], Any]) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are compiled, handles and workspaces made
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = call()

    def replay(self) -> Any:
        self.graph.replay()
        return self.output


def in_dtype(arguments: Any, dtype: torch.dtype) -> Any:
    """Floats in another dtype."""
    return tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, arguments)


def assert_same_bits(got: Any, expected: Any) -> None:
    """NaN where nothing was written: a buffer may be longer than what it holds."""
    pairs = list(zip(tree_leaves(got), tree_leaves(expected), strict=True))
    assert any(isinstance(x, Tensor) and x.numel() > 0 for x, _ in pairs)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
