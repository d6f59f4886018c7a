"""Every operator once, small: against the CPU, and what `make gpu` puts under sanitizers."""

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..ops.samples import SAMPLES
from .captured import ON_CUDA, in_dtype

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ON_CUDA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_agrees_with_the_cpu(name, dtype):
    sample = SAMPLES[name]
    # of the largest value; how accurate an operator is, its own tests say
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
    expected, got = (
        tree_leaves(sample.operator(*in_dtype(sample.arguments(device, 5), dtype)))
        for device in ("cpu", "cuda")
    )
    for a, b in zip(got, expected, strict=True):
        if isinstance(b, Tensor) and b.is_floating_point() and b.numel() > 0:
            atol = tolerance * b.nan_to_num().abs().max().item()
            # NaN where nothing was written: a buffer may be longer than what it holds
            torch.testing.assert_close(a.cpu(), b, rtol=0, atol=atol, equal_nan=True)
        else:
            assert torch.equal(a.cpu(), b) if isinstance(b, Tensor) else a == b
