"""torch.export keeps every operator, for any number of RoIs, and what it exports gives the same."""

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves, tree_map

from .samples import SAMPLES

pytestmark = pytest.mark.cpu_only  # of the CPU's kernels


class Call(nn.Module):
    """An operator as a module, with everything but tensors bound."""

    def __init__(self, operator) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, *arguments):
        return self.operator(*arguments)


def what_differs(few, many):
    """The dimensions of a tensor that follow N, for torch.export."""
    if not isinstance(few, Tensor):
        return None
    return {d: Dim.DYNAMIC for d in range(few.dim()) if few.shape[d] != many.shape[d]}


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if sample.static])
def test_exports_for_any_number(name):
    sample = SAMPLES[name]
    few, many = sample.arguments(n=3), sample.arguments(n=5)
    dynamic = tree_map(what_differs, few, many)
    assert any(tree_leaves(dynamic))
    with torch.no_grad():
        exported = torch.export.export(
            Call(sample.operator), few, dynamic_shapes={"arguments": dynamic}
        )
        called = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
        assert f"dynamask.{name}.default" in called
        for arguments in (few, many):
            expected = tree_leaves(sample.operator(*arguments))
            got = tree_leaves(exported.module()(*arguments))
            assert len(got) == len(expected)
            for a, b in zip(got, expected):
                assert torch.equal(a, b)
