"""The same bits every time, forward always and backward under deterministic algorithms."""

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ..ops.samples import SAMPLES
from .captured import ON_CUDA, assert_same_bits, in_dtype

pytestmark = pytest.mark.gpu
REPEATS = 100
DIFFERENTIABLE = (
    *("class_logits", "deform_conv2d", "feature_aggregation", "mask_edge_loss"),
    *("multiscale_roi_align", "roi_align"),
)


@pytest.mark.parametrize("name", ON_CUDA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_forward(name, dtype):
    sample = SAMPLES[name]
    arguments = in_dtype(sample.arguments("cuda", 64), dtype)
    expected = sample.operator(*arguments)
    for _ in range(REPEATS):
        assert_same_bits(sample.operator(*arguments), expected)


def gradients(operator, arguments):
    leaves = []

    def leaf(x):
        if x.is_floating_point():
            leaves.append(x := x.detach().requires_grad_())
        return x

    outputs = tree_leaves(operator(*tree_map_only(Tensor, leaf, arguments)))
    outputs = [x for x in outputs if isinstance(x, Tensor) and x.requires_grad]
    found = torch.autograd.grad([x.sum() for x in outputs], leaves, allow_unused=True)
    return [x for x in found if x is not None]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward(name, dtype):
    assert torch.are_deterministic_algorithms_enabled()
    sample = SAMPLES[name]
    arguments = in_dtype(sample.arguments("cuda", 64), dtype)
    expected = gradients(sample.operator, arguments)
    for _ in range(REPEATS):
        assert_same_bits(gradients(sample.operator, arguments), expected)
