import math

import torch
from torch import Tensor, nn

from dynamask.ops._check import check_device, check_dims, check_float, check_size


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = (1, 1),
    padding: int | tuple[int, int] = (0, 0),
    dilation: int | tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Convolution whose taps are displaced by learned offsets, and weighed by a learned mask.

    Version 1 without a mask (Dai et al., "Deformable Convolutional Networks", 2017), version 2 with
    one (Zhu et al., 2019). Signature and conventions are those of
    :func:`torchvision.ops.deform_conv2d`, and so are its values and gradients.

    Args:
        input: Feature maps [N, C, H, W]; channels_last in gives channels_last out.
        offset: Displacements in pixels [N, 2 * G * kH * kW, Ho, Wo], for each of G offset groups
            and each tap (row by row) first of y, then of x. G is read off the shape; each group
            serves C / G successive channels.
        weight: Kernels [O, C / groups, kH, kW]; the number of weight groups is read off the shape.
        bias: One number per output channel [O], or None.
        stride: Distance between the windows of neighbouring outputs, in pixels: (vertical,
            horizontal) or one number.
        padding: How many zeros are thought around the input, likewise.
        dilation: Distance between neighbouring taps, likewise.
        mask: Weight of each tap [N, G * kH * kW, Ho, Wo], or None for all ones.

    Any float dtypes may meet (bf16 features with fp32 offsets); positions are computed in fp32 and
    products summed in fp32, both in fp64 for fp64 features. On CPUs that multiply bf16, the forward
    of bf16 features rounds weights and sampled features to bf16.

    Between pixel centres, which lie at whole numbers, the input is bilinear; outside of
    (-1, H) x (-1, W) it is zero, with zero gradient, as it is where an offset is NaN or infinite.

    Returns:
        [N, O, Ho, Wo] of the dtype of ``input``.

    Raises:
        TypeError: if a tensor is not of a floating dtype.
        ValueError: if shapes, devices or numbers do not fit together.
    """
    step, pad, spread = (
        _pair("stride", stride),
        _pair("padding", padding),
        _pair("dilation", dilation),
    )
    _check(input, offset, weight, bias, step, pad, spread, mask)
    return torch.ops.dynamask.deform_conv2d(input, offset, weight, bias, step, pad, spread, mask)


class DeformConv2d(nn.Module):
    """:func:`deform_conv2d` with its weight and bias; a drop-in for torchvision's module.

    Args:
        in_channels: C of the input.
        out_channels: O of the output.
        kernel_size: (kH, kW), or one number for both; likewise the next three.
        stride: Distance between the windows of neighbouring outputs.
        padding: How many zeros are thought around the input.
        dilation: Distance between neighbouring taps.
        groups: Number of weight groups.
        bias: Whether a bias is learned.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if groups < 1 or channels % groups:
                raise ValueError(
                    f"DeformConv2d: expected {name} divisible by groups {groups}, got {channels}"
                )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair("kernel_size", kernel_size)
        self.stride = _pair("stride", stride)
        self.padding = _pair("padding", padding)
        self.dilation = _pair("dilation", dilation)
        self.groups = groups
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        )
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias as :class:`torch.nn.Conv2d` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(max(1, self.weight[0].numel()))
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`deform_conv2d`."""
        return deform_conv2d(
            input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, bias={self.bias is not None}"
        )


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2:
        raise ValueError(f"deform_conv2d: expected {name} of one or two numbers, got {value}")
    return pair


def _check(input, offset, weight, bias, stride, padding, dilation, mask) -> None:
    op = "deform_conv2d"
    given = {"input": input, "offset": offset, "weight": weight, "bias": bias, "mask": mask}
    for name, tensor in given.items():
        if tensor is not None:
            check_float(op, name, tensor)
    check_device(op, input.device, **given)
    for name, pair, least in (
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):
        if min(pair) < least:
            raise ValueError(f"{op}: expected {name} >= {least}, got {pair}")
    check_dims(op, "input", input, "N C H W")
    check_dims(op, "weight", weight, "O C/groups kH kW")
    check_dims(op, "offset", offset, "N 2*G*kH*kW Ho Wo")
    taps = weight.shape[2] * weight.shape[3]
    if taps == 0:
        raise ValueError(f"{op}: expected a kernel of at least 1 x 1, got {list(weight.shape[2:])}")
    _check_groups(op, input, weight)
    _check_offset_groups(op, input, offset, taps)
    if bias is not None:
        check_dims(op, "bias", bias, "O")
        check_size(op, "values in bias", weight.shape[0], bias.shape[0])
    size = _out_size(input, weight, stride, padding, dilation)
    if min(size) < 1:
        raise ValueError(
            f"{op}: expected an input that holds one window of the kernel, got an output of "
            f"{size[0]} x {size[1]} from {list(input.shape)}"
        )
    planes = [input.shape[0], offset.shape[1], *size]
    if list(offset.shape) != planes:
        raise ValueError(f"{op}: expected offset {planes}, got {list(offset.shape)}")
    if mask is not None:
        planes[1] = offset.shape[1] // 2
        if list(mask.shape) != planes:
            raise ValueError(f"{op}: expected mask {planes}, got {list(mask.shape)}")


def _check_groups(op: str, input: Tensor, weight: Tensor) -> None:
    channels, group_channels = input.shape[1], weight.shape[1]
    if channels == 0 and group_channels == 0:
        return
    if group_channels == 0 or channels == 0 or channels % group_channels:
        raise ValueError(
            f"{op}: expected channels of input to be a multiple of those of weight "
            f"{group_channels}, got {channels}"
        )
    groups = channels // group_channels
    if weight.shape[0] % groups:
        raise ValueError(
            f"{op}: expected out channels divisible by the {groups} weight groups, "
            f"got {weight.shape[0]}"
        )


def _check_offset_groups(op: str, input: Tensor, offset: Tensor, taps: int) -> None:
    channels, planes = input.shape[1], offset.shape[1]
    if planes == 0 or planes % (2 * taps):
        raise ValueError(
            f"{op}: expected channels of offset to be a multiple of 2 * kH * kW = {2 * taps}, "
            f"got {planes}"
        )
    if channels % (planes // (2 * taps)):
        raise ValueError(
            f"{op}: expected channels of input divisible by the {planes // (2 * taps)} offset "
            f"groups, got {channels}"
        )


def _out_size(input, weight, stride, padding, dilation) -> list:
    return [
        (input.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1)
        // stride[i]
        + 1
        for i in range(2)
    ]


def _empty_as(like: Tensor, shape) -> Tensor:
    """A tensor as the kernels allocate it: channels_last where `like` is, else contiguous."""
    rows = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    layout = torch.channels_last if rows else torch.contiguous_format
    return like.new_empty(shape).contiguous(memory_format=layout)


@torch.library.register_fake("dynamask::deform_conv2d")
def _(input, offset, weight, bias, stride, padding, dilation, mask):
    size = _out_size(input, weight, stride, padding, dilation)
    return _empty_as(input, (input.shape[0], weight.shape[0], *size))


@torch.library.register_fake("dynamask::deform_conv2d_backward")
def _(
    grad, input, offset, weight, mask, stride, padding, dilation,
    needs_input, needs_offset, needs_weight, needs_mask, deterministic,
):  # fmt: skip
    def gradient(like, needed):
        return _empty_as(like, like.shape) if needed else like.new_empty(0)

    return (
        gradient(input, needs_input),
        gradient(offset, needs_offset),
        weight.new_empty(weight.shape) if needs_weight else weight.new_empty(0),
        gradient(offset if mask is None else mask, needs_mask and mask is not None),
    )


def _setup_context(ctx, inputs, output):
    input, offset, weight, _, ctx.stride, ctx.padding, ctx.dilation, mask = inputs
    ctx.save_for_backward(input, offset, weight, mask)


def _backward(ctx, grad):
    input, offset, weight, mask = ctx.saved_tensors
    needs_input, needs_offset, needs_weight, needs_bias, *_, needs_mask = ctx.needs_input_grad
    needed = (needs_input, needs_offset, needs_weight, needs_mask)
    grads: list[Tensor | None] = [None] * 4
    if any(needed):
        numbers = (ctx.stride, ctx.padding, ctx.dilation)
        deterministic = torch.are_deterministic_algorithms_enabled()
        grads = torch.ops.dynamask.deform_conv2d_backward(
            grad, input, offset, weight, mask, *numbers, *needed, deterministic
        )
    grad_input, grad_offset, grad_weight, grad_mask = (
        g if need else None for g, need in zip(grads, needed)
    )
    grad_bias = grad.sum((0, 2, 3)) if needs_bias else None
    return grad_input, grad_offset, grad_weight, grad_bias, None, None, None, grad_mask


torch.library.register_autograd("dynamask::deform_conv2d", _backward, setup_context=_setup_context)
