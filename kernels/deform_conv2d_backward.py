"""The gradients of deform_conv2d in Triton."""

import math

import torch
import triton
from torch import Tensor

from dynamask.kernels.deform_conv2d import DTYPES as DTYPES
from dynamask.kernels.deform_conv2d import INTERPRETED, pixel_rows, precision_of_products
from dynamask.kernels.deform_conv2d_backward_kernels import (
    data_block_sizes,
    deform_conv2d_backward_data_kernel,
    deform_conv2d_backward_weight_kernel,
    weight_block_sizes,
)

WEIGHT_PROGRAMS = 512  # some waves of any GPU


def deform_conv2d_backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    needs_input: bool,
    needs_offset: bool,
    needs_weight: bool,
    needs_mask: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of :func:`dynamask.ops.deform_conv2d` asked for; the others are empty.

    That of the input is summed in whatever order if it need not be `deterministic`, else in whole
    numbers, which come out the same in any order.
    """
    needs_mask = needs_mask and mask is not None
    grads = (
        empty_as(input, needs_input),
        empty_as(offset, needs_offset),
        weight.new_empty(weight.shape if needs_weight else 0),
        empty_as(offset if mask is None else mask, needs_mask),
    )
    if grad.numel() == 0 or input.numel() == 0:
        for g in grads:
            g.zero_()
        return grads
    call = Call(grad, input, offset, weight, mask, stride, padding, dilation)
    grad_input, grad_offset, grad_weight, grad_mask = grads
    if needs_input or needs_offset or needs_mask:
        per_unit = call.per_unit() if deterministic and needs_input else None
        sums = call.new_sums(per_unit) if needs_input else None
        call.run_data(
            sums,
            grad_offset if needs_offset else None,
            grad_mask if needs_mask else None,
            per_unit,
        )
        if sums is not None:
            if per_unit is not None:
                sums = sums / per_unit
            grad_input.copy_(sums.permute(0, 3, 1, 2))
    if needs_weight:
        grad_weight.copy_(call.run_weight())
    return grads


def empty_as(like: Tensor, needed: bool) -> Tensor:
    """A gradient in the layout of `like`: channels_last where that is, else contiguous."""
    if not needed:
        return like.new_empty(0)
    rows = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    layout = torch.channels_last if rows else torch.contiguous_format
    return torch.empty(like.shape, dtype=like.dtype, device=like.device, memory_format=layout)


class Call:
    """The tensors of one call as the kernels read them, and the numbers that describe them."""

    def __init__(self, grad, input, offset, weight, mask, stride, padding, dilation) -> None:
        self.batch, all_channels, self.height, self.width = input.shape
        self.channels, self.kernel_width = weight.shape[1], weight.shape[3]
        self.taps = weight.shape[2] * weight.shape[3]
        self.groups = all_channels // self.channels
        self.offset_groups = offset.shape[1] // (2 * self.taps)
        self.offset_channels = all_channels // self.offset_groups
        self.segment = math.gcd(self.channels, self.offset_channels)
        self.out_channels = weight.shape[0] // self.groups
        self.out_width, self.pixels = grad.shape[3], grad.shape[2] * grad.shape[3]
        self.grad, self.input = pixel_rows(grad.to(input.dtype)), pixel_rows(input)
        self.offset, self.mask = offset.flatten(2), None if mask is None else mask.flatten(2)
        self.weight = weight
        self.numbers = (*stride, *padding, *dilation)
        self.constants = {
            "TAPS": self.taps,
            "KERNEL_WIDTH": self.kernel_width,
            "GROUP_CHANNELS": self.channels,
            "SEGMENT": self.segment,
            "OFFSET_CHANNELS": self.offset_channels,
            "INPUT_PIXEL": self.input.stride(2),
            "WIDE": self.height * self.width * max(all_channels, self.input.stride(2)) >= 2**31,
            "PRECISION": precision_of_products(),
            "INTERPRETED": INTERPRETED,
        }

    def sizes(self) -> tuple[int, ...]:
        pixels = (self.height, self.width, self.pixels, self.out_width)
        return (self.batch, *pixels, self.out_channels)

    def read_strides(self) -> tuple[int, ...]:
        """Of the gradient, the input, the offsets and the mask."""
        rows = (self.grad.stride(0), self.grad.stride(2), self.input.stride(0))
        return (*rows, *self.offset.stride(), *strides(self.mask))

    def per_unit(self) -> Tensor:
        """How many units of whole-number sums make 1, such that no sum can overflow 63 bits.

        Not finite if a factor is not, and so are the gradients then.
        """
        products = self.out_channels * self.taps * self.pixels
        factors = [x for x in (self.grad, self.weight, self.mask) if x is not None]
        largest = torch.stack([largest_magnitude(x) for x in factors])
        exponent = torch.frexp(largest).exponent.sum()
        return torch.exp2(61.0 - products.bit_length() - exponent.double()) + 0 * largest.sum()

    def new_sums(self, per_unit: Tensor | None) -> Tensor:
        """Zeros [N, H, W, C] to add the gradient of the input to."""
        shape = (self.batch, self.height, self.width, self.input.shape[1])
        dtype = torch.float32 if per_unit is None else torch.int64
        return torch.zeros(shape, dtype=dtype, device=self.input.device)

    def run_data(self, grad_input, grad_offset, grad_mask, per_unit) -> None:
        sizes = data_block_sizes(self.input.dtype, self.segment, self.out_channels)
        weight = self.weight.flatten(2).unflatten(0, (self.groups, self.out_channels))
        weight = weight.permute(0, 3, 1, 2)  # [groups, taps, O / groups, C / groups]
        weight = torch.empty(weight.shape, dtype=self.input.dtype, device=weight.device).copy_(
            weight
        )
        offsets, masks = (None if x is None else x.flatten(2) for x in (grad_offset, grad_mask))
        tiles = triton.cdiv(self.batch * self.pixels, sizes["PIXELS"])
        deform_conv2d_backward_data_kernel[(tiles * self.taps, self.offset_groups)](
            *(self.grad, self.input, self.offset, self.mask, weight),
            *(grad_input, offsets, masks, per_unit),
            *self.sizes(),
            *self.read_strides(),
            0 if grad_input is None else grad_input.stride(0),
            *(*strides(offsets), *strides(masks)),
            *self.numbers,
            **self.constants,
            SUM_PIXEL=self.input.shape[1],
            OUT_BLOCKS=triton.cdiv(self.out_channels, sizes["OUT"]),
            RESIDENT=self.out_channels <= sizes["OUT"] and self.segment == self.offset_channels,
            **sizes,
        )

    def run_weight(self) -> Tensor:
        """In fp32, [O, C / groups, kH, kW]."""
        sizes = weight_block_sizes(self.input.dtype, self.segment, self.out_channels)
        slabs = triton.cdiv(self.segment, sizes["CHANNELS"])
        steps = self.channels // self.segment * slabs * self.taps
        blocks = self.groups * steps * triton.cdiv(self.out_channels, sizes["OUT"])
        tiles = triton.cdiv(self.batch * self.pixels, sizes["PIXELS"])
        splits = max(1, min(tiles, WEIGHT_PROGRAMS // blocks))
        sums = torch.empty(
            (splits, self.groups, self.taps, self.channels, self.out_channels),
            dtype=torch.float32,
            device=self.input.device,
        )
        deform_conv2d_backward_weight_kernel[(blocks, splits)](
            *(self.grad, self.input, self.offset, self.mask, sums),
            *(*self.sizes(), tiles, self.groups),
            *self.read_strides(),
            *self.numbers,
            **self.constants,
            **sizes,
        )
        total = sums.sum(0).permute(0, 3, 2, 1)  # [groups, O / groups, C / groups, taps]
        return total.reshape(self.weight.shape)


def strides(x: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if x is None else x.stride()


def largest_magnitude(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, float("inf"), dtype=torch.float32)
