"""Every operator whose output has a shape known beforehand can be part of a CUDA graph."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from ..ops.samples import SAMPLES
from .captured import ON_CUDA, Captured, assert_same_bits, in_dtype

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", [name for name in ON_CUDA if SAMPLES[name].static])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_replay_gives_the_bits_of_eager(name, dtype):
    sample = SAMPLES[name]
    arguments = in_dtype(sample.arguments("cuda", 5), dtype)
    captured = Captured(lambda: sample.operator(*arguments))
    assert_same_bits(captured.replay(), sample.operator(*arguments))
    for x in tree_leaves(arguments):  # other numbers in the same memory
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            x.copy_(x.roll(1, 0))
    assert_same_bits(captured.replay(), sample.operator(*arguments))
