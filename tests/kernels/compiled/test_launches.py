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


def in_triton(name, move):
    """The sample call of an operator in bf16 with its tensors moved, up to its launches."""
    sample = SAMPLES[name]
    arguments = tree_map_only(
        Tensor, lambda x: move(x.bfloat16() if x.is_floating_point() else x), sample.arguments(n=3)
    )
    with torch.no_grad(), InTriton():
        return tree_leaves(sample.operator(*arguments))


@pytest.mark.parametrize("name", sorted(_triton.OPERATORS))
def test_tensors_at_odd_addresses(absent_gpu, name):
    def move(x):
        memory = torch.empty(x.numel() + 1, dtype=x.dtype)
        return memory.as_strided(x.shape, x.stride(), 1).copy_(x) if x.numel() > 1 else x

    in_triton(name, move)
    assert absent_gpu.launches


@pytest.mark.parametrize("name", sorted(_triton.OPERATORS))
def test_numbers_of_more_than_32_bits(absent_gpu, name):
    many = 2**27

    def move(x):
        layout = {"memory_format": torch.channels_last} if x.dim() == 4 else {}
        size = (many if x.shape[0] == 3 else x.shape[0], *x.shape[1:])
        return torch.empty(size, dtype=x.dtype, device="meta").contiguous(**layout)

    assert max(x.numel() for x in in_triton(name, move)) >= many
    assert absent_gpu.launches


def test_a_grid_that_no_gpu_takes_is_seen(absent_gpu):
    source = absent_gpu.launcher_cls(None, type("Metadata", (), {"name": "kernel"}))
    with pytest.raises(AssertionError, match="kernel: a grid of"):
        source(1, 65_536, 1)
