"""deform_conv2d against torchvision, and bf16 against fp32; the floor is a plain convolution."""

from functools import cached_property, lru_cache, partial

import pytest
import torch

from dynamask.benchmarks.harness import Case, on_gpu
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


class OnGpu:
    """bf16 on a GPU, offsets in fp32: ours on channels_last, torchvision's under autocast on NCHW.

    That casts its features to fp32. The floor is a convolution of the same shape, channels_last.
    """

    def __init__(self, rois, channels, side, groups):
        self.shape = rois, channels, side, groups

    @cached_property
    def planes(self):
        input, offset, weight = tensors(*self.shape)
        leaves = input.bfloat16(), offset, weight.bfloat16()
        return [x.detach().requires_grad_() for x in leaves]

    @cached_property
    def rows(self):
        last = {"memory_format": torch.channels_last}
        return [x.detach().contiguous(**last).requires_grad_() for x in self.planes]

    def ours(self):
        return deform_conv2d(*self.rows, padding=1)

    def theirs(self):
        ops = pytest.importorskip("torchvision").ops
        with torch.autocast("cuda", torch.bfloat16):
            return ops.deform_conv2d(*self.planes, padding=1)

    def floor(self):
        input, _, weight = self.rows
        return torch.conv2d(input, weight, padding=1)

    @cached_property
    def graphs(self):
        """What each makes of its leaves, the leaves, and a gradient."""
        made = {}
        for name, leaves in (("ours", self.rows), ("theirs", self.planes), ("floor", self.rows)):
            out = getattr(self, name)()
            wanted = leaves[::2] if name == "floor" else leaves
            made[name] = out, wanted, torch.linspace(-1, 1, out.numel()).view_as(out).to(out)
        return made

    def gradients(self, name):
        out, leaves, grad = self.graphs[name]
        return torch.autograd.grad(out, leaves, grad, retain_graph=True)

    def case(self, direction):
        calls = {name: getattr(self, name) for name in ("ours", "theirs", "floor")}
        if direction == "forward":
            calls = {name: torch.no_grad()(call) for name, call in calls.items()}
        else:
            calls = {name: partial(self.gradients, name) for name in calls}

        def check():
            ours, theirs = (calls[name]() for name in ("ours", "theirs"))
            pairs = ([ours], [theirs]) if direction == "forward" else (ours, theirs)
            agree(pairs[0], [x.float() for x in pairs[1]], tolerance=3e-2)

        return Case(
            op="deform_conv2d",
            case=name(*self.shape, "NHWC"),
            ours=calls["ours"],
            baseline=calls["theirs"],
            baseline_name="torchvision under autocast",
            check=check,
            dtype="bfloat16",
            direction=direction,
            floor=calls["floor"],
        )


def on_gpu_cases():
    """Also a prime number of RoIs, which torchvision takes one by one."""
    for rois, shapes in ((100, SHAPES), (101, SIZES)):
        yield from (OnGpu(rois, *shape).case("forward") for shape in shapes)
    yield from (OnGpu(100, *shape).case("backward") for shape in SHAPES)
    for shape in SIZES:
        yield forward((100, *shape, "channels_last"))


def cases():
    if on_gpu():
        yield from on_gpu_cases()
        return
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
