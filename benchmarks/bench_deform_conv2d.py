"""deform_conv2d against torchvision; the floor is a plain convolution of the same shape."""

import pytest
import torch
import torchvision

from dynamask.benchmarks.harness import Case
from dynamask.ops import deform_conv2d

ROIS = 24
# channels, side, offset groups: a plain DCN of each mask size, then what DynaMask asks for
SHAPES = [(256, 14, 1), (128, 28, 1), (64, 56, 1), (32, 112, 1), (128, 28, 4), (64, 56, 2)]
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def tensors(channels, side, groups, layout):
    torch.manual_seed(0)
    input = torch.randn(ROIS, channels, side, side).contiguous(memory_format=LAYOUTS[layout])
    offset = torch.randn(ROIS, 18 * groups, side, side)
    weight = torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5
    return input, offset, weight


def name(channels, side, groups, layout):
    return f"N={ROIS} {channels}@{side} G={groups} {layout}"


def agree(ours, theirs):
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(shape, layout, report):
    input, _, weight = args = tensors(*shape, layout)

    def ours():
        return deform_conv2d(*args, padding=1)

    def theirs():
        return torchvision.ops.deform_conv2d(*args, padding=1)

    report(
        Case(
            op="deform_conv2d",
            case=name(*shape, layout),
            ours=ours,
            baseline=theirs,
            baseline_name="torchvision",
            floor=lambda: torch.conv2d(input, weight, padding=1),
            check=lambda: agree([ours()], [theirs()]),
        )
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_backward(shape, report):
    """The gradients of input, offset and weight, without the forward."""
    leaves = [x.requires_grad_() for x in tensors(*shape, "NCHW")]
    input, _, weight = leaves
    outs = {
        "ours": deform_conv2d(*leaves, padding=1),
        "theirs": torchvision.ops.deform_conv2d(*leaves, padding=1),
        "plain": torch.conv2d(input, weight, padding=1),
    }
    grad = torch.randn_like(outs["plain"])

    def gradients(out, wanted=leaves):
        return torch.autograd.grad(outs[out], wanted, grad, retain_graph=True)

    report(
        Case(
            op="deform_conv2d",
            case=name(*shape, "NCHW"),
            direction="backward",
            ours=lambda: gradients("ours"),
            baseline=lambda: gradients("theirs"),
            baseline_name="torchvision",
            floor=lambda: gradients("plain", [input, weight]),
            check=lambda: agree(gradients("ours"), gradients("theirs")),
        )
    )
