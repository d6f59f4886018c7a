"""Every Triton operator called as on a GPU, up to its launch: arguments, types, compiler."""

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from dynamask import _triton

from ...ops.samples import SAMPLES
from ..in_triton import InTriton

pytest.importorskip("triton")


@pytest.mark.parametrize("name", sorted(_triton.OPERATORS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_outputs_are_like_those_of_the_cpu(absent_gpu, name, dtype):
    sample = SAMPLES[name]
    for n in (3, 1, 0):
        arguments = tree_map_only(
            Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, sample.arguments(n=n)
        )
        absent_gpu.launches.clear()
        with torch.no_grad():
            expected = tree_leaves(sample.operator(*arguments))
            with InTriton():
                got = tree_leaves(sample.operator(*arguments))
        assert absent_gpu.launches or n == 0
        for ours, wanted in zip(got, expected, strict=True):
            assert ours.dtype == wanted.dtype
            assert ours.shape == wanted.shape
            assert ours.stride() == wanted.stride()


def test_a_grid_that_no_gpu_takes_is_seen(absent_gpu):
    source = absent_gpu.launcher_cls(None, type("Metadata", (), {"name": "kernel"}))
    with pytest.raises(AssertionError, match="kernel: a grid of"):
        source(1, 65_536, 1)
