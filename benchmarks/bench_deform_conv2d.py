"""deform_conv2d against torchvision, and bf16 against fp32; the floor is a plain convolution."""

from functools import lru_cache

import pytest
import torch

from dynamask.benchmarks.harness import Case
from dynamask.ops import deform_conv2d

# channels, side, offset groups: a plain DCN of each mask size, then what DynaMask asks for
SIZES = [(256, 14, 1), (128, 28, 1), (64, 56, 1), (32, 112, 1)]
SHAPES = [*SIZES, (128, 28, 4), (64, 56, 2)]
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
MANY = [(100, SIZES[0]), (100, SIZES[2]), (97, SIZES[0])]  # torchvision takes primes one by one


@lru_cache(maxsize=1)
def tensors(rois, channels, side, groups, layout="NCHW"):
    torch.manual_seed(0)
    input = torch.randn(rois, channels, side, side).contiguous(memory_format=LAYOUTS[layout])
    offset = torch.randn(rois, 18 * groups, side, side)
    weight = torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5
    return input, offset, weight


@lru_cache(maxsize=1)
def narrow(*shape):
    input, offset, weight = tensors(*shape)
    return input.bfloat16(), offset, weight.bfloat16()


@lru_cache(maxsize=1)
def graphs(*shape):
    """The leaves, what each operator makes of them, and a gradient for it."""
    ops = pytest.importorskip("torchvision").ops
    leaves = [x.detach().requires_grad_() for x in tensors(*shape)]
    input, _, weight = leaves
    outs = {
        "ours": deform_conv2d(*leaves, padding=1),
        "theirs": ops.deform_conv2d(*leaves, padding=1),
        "plain": torch.conv2d(input, weight, padding=1),
    }
    return leaves, outs, torch.randn_like(outs["plain"])


def gradients(shape, out):
    leaves, outs, grad = graphs(*shape)
    wanted = [leaves[0], leaves[2]] if out == "plain" else leaves
    return torch.autograd.grad(outs[out], wanted, grad, retain_graph=True)


def agree(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.float(), b, rtol=0, atol=tolerance * b.abs().max().item())


def name(rois, channels, side, groups, layout="NCHW"):
    return f"N={rois} {channels}@{side} G={groups} {layout}"


def plain(make, shape):
    input, _, weight = make(*shape)
    return torch.conv2d(input, weight, padding=1)


def forward(shape):
    ops = pytest.importorskip("torchvision").ops

    def ours():
        return deform_conv2d(*tensors(*shape), padding=1)

    def theirs():
        return ops.deform_conv2d(*tensors(*shape), padding=1)

    return Case(
        op="deform_conv2d",
        case=name(*shape),
        ours=ours,
        baseline=theirs,
        baseline_name="torchvision",
        floor=lambda: plain(tensors, shape),
        check=lambda: agree([ours()], [theirs()]),
    )


def forward_bf16(shape):
    """Offsets stay fp32, as a model under autocast should keep them."""

    def ours():
        return deform_conv2d(*narrow(*shape), padding=1)

    def in_float32():
        return deform_conv2d(*tensors(*shape), padding=1)

    return Case(
        op="deform_conv2d",
        case=name(*shape),
        dtype="bfloat16",
        ours=ours,
        baseline=in_float32,
        baseline_name="ours float32",
        floor=lambda: plain(narrow, shape),
        check=lambda: agree([ours()], [in_float32()], tolerance=1e-2),
    )


def backward(shape):
    """The gradients of input, offset and weight, without the forward."""
    return Case(
        op="deform_conv2d",
        case=name(*shape),
        direction="backward",
        ours=lambda: gradients(shape, "ours"),
        baseline=lambda: gradients(shape, "theirs"),
        baseline_name="torchvision",
        floor=lambda: gradients(shape, "plain"),
        check=lambda: agree(gradients(shape, "ours"), gradients(shape, "theirs")),
    )


def cases():
    for layout in LAYOUTS:
        yield from (forward((24, *shape, layout)) for shape in SHAPES)
        yield from (forward_bf16((24, *shape, layout)) for shape in SHAPES)
    for rois, shape in MANY:
        yield forward((rois, *shape, "NCHW"))
    yield forward_bf16((100, *SIZES[0], "NCHW"))
    for shape in SHAPES:
        yield backward((24, *shape, "NCHW"))


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_deform_conv2d(case, report):
    report(case)
