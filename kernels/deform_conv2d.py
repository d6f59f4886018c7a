"""deform_conv2d in Triton: a matrix product whose left operand is sampled as it is needed."""

import math
import os

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # there a product of bf16 comes out wrong


@triton.jit
def tile_pixels(tile, out_pixels, PIXELS: tl.constexpr):
    # The images of the pixels of a tile, and which pixels of those they are.
    first = tl.cast(tile, tl.int64) * PIXELS
    q = (first % out_pixels).to(tl.int32) + tl.arange(0, PIXELS)
    return first // out_pixels + q // out_pixels, q % out_pixels


@triton.jit
def sample_positions(offset, plane, base_y, base_x, height, width, exists):
    # Where one tap of each pixel reads: between rows y and y + 1, columns x and x + 1, (fy, fx) in
    # [0, 1) below and right of (y, x). A position outside (-1, H) x (-1, W), or one that is no
    # number, is moved below the image, where all is zero.
    v = base_y + tl.load(offset, mask=exists, other=0.0).to(tl.float32)
    u = base_x + tl.load(offset + plane, mask=exists, other=0.0).to(tl.float32)
    inside = exists & (v >= -1.0) & (v < height) & (u >= -1.0) & (u < width)
    v = tl.where(inside, v, height)
    u = tl.where(inside, u, 0.0)
    y, x = tl.floor(v), tl.floor(u)
    return y.to(tl.int32), x.to(tl.int32), v - y, u - x


@triton.jit
def corners(y, x, height, width):
    # Which of the four neighbours of a position are in the image.
    top, bottom = (y >= 0) & (y < height), y + 1 < height
    left, right = x >= 0, x + 1 < width
    return top & left, top & right, bottom & left, bottom & right


@triton.jit
def load_channels(pixels, channels, exists, inside, WHOLE: tl.constexpr):
    # [pixels, channels] in fp32, zeros at pixels that do not exist; WHOLE: all channels are inside.
    places = pixels[:, None] + channels[None, :]
    if WHOLE:
        x = tl.load(places, mask=exists[:, None], other=0.0)
    else:
        x = tl.load(places, mask=exists[:, None] & inside, other=0.0)
    return x.to(tl.float32)


@triton.jit
def sampled_columns(
    k, input, offset, mask, n, images, base_y, base_x, height, width, input_pixel, offset_plane,
    mask_plane, group_channel, segment, steps, offset_channels, dilation_y, dilation_x,
    TAPS: tl.constexpr, KERNEL_WIDTH: tl.constexpr, WHOLE: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # Step k of the sum: [PIXELS, CHANNELS] of the input where one tap reads it. Taps are
    # innermost: neighbours find the channels they share in the L1. After the last step, zeros.
    slabs = tl.cdiv(segment, CHANNELS)
    exists = n < tl.where(k < steps, images, 0)
    tap = k % TAPS
    slab = k // TAPS
    within = slab % slabs * CHANNELS + tl.arange(0, CHANNELS)
    channel = group_channel + slab // slabs * segment
    plane = channel // offset_channels * TAPS + tap
    y, x, fy, fx = sample_positions(
        offset + 2 * plane * offset_plane,
        offset_plane,
        (base_y + tap // KERNEL_WIDTH * dilation_y).to(tl.float32),
        (base_x + tap % KERNEL_WIDTH * dilation_x).to(tl.float32),
        height,
        width,
        exists,
    )
    top_left, top_right, bottom_left, bottom_right = corners(y, x, height, width)
    top, bottom = 1.0 - fy, fy
    if mask is not None:
        scale = tl.load(mask + plane * mask_plane, mask=exists, other=0.0).to(tl.float32)
        top, bottom = top * scale, bottom * scale
    c = channel + within
    inside = within[None, :] < segment
    upper = input + (y * width + x).to(tl.int64) * input_pixel
    lower = upper + width * input_pixel
    x = (top * (1.0 - fx))[:, None] * load_channels(upper, c, top_left, inside, WHOLE)
    x += (top * fx)[:, None] * load_channels(upper + input_pixel, c, top_right, inside, WHOLE)
    x += (bottom * (1.0 - fx))[:, None] * load_channels(lower, c, bottom_left, inside, WHOLE)
    x += (bottom * fx)[:, None] * load_channels(lower + input_pixel, c, bottom_right, inside, WHOLE)
    return x.to(input.dtype.scalar.element_ty)


@triton.jit
def deform_conv2d_kernel(
    input, offset, mask, weight, bias, residual, out, count,
    batch, height, width, out_pixels, out_width,
    channels, segment, offset_channels, out_channels,
    input_image, input_pixel, offset_image, offset_plane, offset_pixel,
    mask_image, mask_plane, mask_pixel,
    out_image, out_channel, out_pixel, residual_image, residual_channel, residual_pixel,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    TAPS: tl.constexpr, KERNEL_WIDTH: tl.constexpr, RELU: tl.constexpr, WHOLE: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr, PIXELS: tl.constexpr, OUT: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    # A program owns PIXELS output pixels, of one image or several, and OUT channels of one weight
    # group. Bound by the tensor cores at many channels, by the L1 reads of the four neighbours at
    # few.
    blocks = tl.cdiv(out_channels, OUT)
    group = tl.program_id(1) // blocks
    o = tl.program_id(1) % blocks * OUT + tl.arange(0, OUT)
    tile = tl.program_id(0)
    images = batch
    if count is not None:
        images = tl.minimum(images, tl.load(count))
    if tile.to(tl.int64) * PIXELS >= images * out_pixels.to(tl.int64):
        return
    n, q = tile_pixels(tile, out_pixels, PIXELS)
    exists = n < images
    base_y = q // out_width * stride_y - padding_y
    base_x = q % out_width * stride_x - padding_x
    image = input + n * input_image
    weight += (group * TAPS * channels).to(tl.int64) * out_channels
    offset += n * offset_image + q.to(tl.int64) * offset_pixel
    if mask is not None:
        mask += n * mask_image + q.to(tl.int64) * mask_pixel

    acc = tl.zeros((PIXELS, OUT), tl.float32)
    slabs = tl.cdiv(segment, CHANNELS)  # of a segment: channels of one offset group
    steps = channels // segment * slabs * TAPS
    a = sampled_columns(
        0, image, offset, mask, n, images, base_y, base_x, height, width, input_pixel, offset_plane,
        mask_plane, group * channels, segment, steps, offset_channels, dilation_y, dilation_x,
        TAPS, KERNEL_WIDTH, WHOLE, CHANNELS,
    )  # fmt: skip
    for k in range(0, steps):
        tap = k % TAPS
        slab = k // TAPS
        within = slab % slabs * CHANNELS + tl.arange(0, CHANNELS)
        row = tap * channels + slab // slabs * segment + within
        b = tl.load(
            weight + (row[:, None] * out_channels + o[None, :]),
            mask=(within[:, None] < segment) & (o[None, :] < out_channels),
            other=0.0,
        )
        if INTERPRETED:
            a, b = a.to(tl.float32), b.to(tl.float32)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        a = sampled_columns(
            k + 1, image, offset, mask, n, images, base_y, base_x, height, width, input_pixel,
            offset_plane, mask_plane, group * channels, segment, steps, offset_channels, dilation_y,
            dilation_x, TAPS, KERNEL_WIDTH, WHOLE, CHANNELS,
        )  # fmt: skip

    o_inside = o < out_channels
    o += group * out_channels
    if bias is not None:
        acc += tl.load(bias + o, mask=o_inside, other=0.0).to(tl.float32)[None, :]
    if RELU:
        acc = tl.where(acc < 0.0, 0.0, acc)
    stored = exists[:, None] & o_inside[None, :]
    if residual is not None:
        at = n * residual_image + q.to(tl.int64) * residual_pixel
        at = residual + at[:, None] + o[None, :].to(tl.int64) * residual_channel
        acc += tl.load(at, mask=stored, other=0.0).to(tl.float32)
    at = n * out_image + q.to(tl.int64) * out_pixel
    at = out + at[:, None] + o[None, :].to(tl.int64) * out_channel
    tl.store(at, acc.to(out.dtype.element_ty), mask=stored)


def block_sizes(dtype: torch.dtype, segment: int, out_channels: int) -> dict[str, int]:
    """PIXELS, OUT and CHANNELS of a program, and how Triton compiles it."""
    if dtype == torch.float32:
        out = min(64, max(16, triton.next_power_of_2(out_channels)))
        return {"PIXELS": 64, "OUT": out, "CHANNELS": 16, "num_warps": 4, "num_stages": 2}
    out = min(128, max(16, triton.next_power_of_2(out_channels)))
    channels = min(32, max(16, triton.next_power_of_2(segment)))
    return {"PIXELS": 128, "OUT": out, "CHANNELS": channels, "num_warps": 8, "num_stages": 3}


def pack_weight(weight: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """[O, C / groups, kH, kW] -> [groups, kH * kW, C / groups, O / groups], in one copy."""
    split = weight.flatten(2).unflatten(0, (groups, weight.shape[0] // groups)).permute(0, 3, 2, 1)
    return torch.empty(split.shape, dtype=dtype, device=weight.device).copy_(split)


def pixel_rows(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, H * W] with the channels innermost, itself if they are."""
    rows = x.flatten(2)
    if rows.stride(1) == 1 or x.shape[1] == 1:
        return rows
    return x.contiguous(memory_format=torch.channels_last).flatten(2)


def launch(
    input: Tensor,
    size: tuple[int, int],
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    kernel_width: int,
    out: Tensor,
    out_width: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    bias: Tensor | None = None,
    relu: bool = False,
    residual: Tensor | None = None,
    count: Tensor | None = None,
) -> None:
    """Starts the kernel on views [N, channels or planes, pixels].

    Args:
        input: [N, C, H * W], the channels innermost; it may be a slice of wider rows of pixels.
        size: (H, W).
        offset: [N, 2 * G * taps, Ho * Wo], any strides, as for mask, out and residual.
        mask: [N, G * taps, Ho * Wo] or None.
        weight: As :func:`pack_weight` returns it, in the dtype of the input.
        kernel_width: kW.
        out: [N, O, Ho * Wo], overwritten.
        out_width: Wo.
        stride: (vertical, horizontal).
        padding: Likewise.
        dilation: Likewise.
        bias: [O] or None.
        relu: Whether negative sums become zero, after the bias.
        residual: Added to that, [N, O, Ho * Wo], or None.
        count: Of how many images the output matters, int64 of one value, or None for all; those
            after them are left as they are.
    """
    batch, _, pixels = out.shape
    groups, taps, channels, out_channels = weight.shape
    offset_channels = max(1, input.shape[1] * 2 * taps // offset.shape[1])
    segment = math.gcd(channels, offset_channels)
    sizes = block_sizes(input.dtype, segment, out_channels)
    ieee = not torch.backends.cuda.matmul.allow_tf32
    grid = (
        triton.cdiv(batch * pixels, sizes["PIXELS"]),
        groups * triton.cdiv(out_channels, sizes["OUT"]),
    )

    def strides(x):
        return (0, 0, 0) if x is None else x.stride()

    deform_conv2d_kernel[grid](
        *(input, offset, mask, weight, bias, residual, out, count),
        *(batch, *size, pixels, out_width),
        *(channels, segment, offset_channels, out_channels),
        *(input.stride(0), input.stride(2)),
        *(*strides(offset), *strides(mask), *strides(out), *strides(residual)),
        *(*stride, *padding, *dilation),
        TAPS=taps,
        KERNEL_WIDTH=kernel_width,
        RELU=relu,
        WHOLE=segment % sizes["CHANNELS"] == 0,
        PRECISION="ieee" if ieee else "tf32",
        INTERPRETED=INTERPRETED,
        **sizes,
    )


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    mask: Tensor | None,
) -> Tensor:
    """See :func:`dynamask.ops.deform_conv2d`.

    An input with its channels outermost is laid out anew first: the copy reads every number once,
    the gather up to 4 * kH * kW times.
    """
    n, channels, height, width = input.shape
    rows = input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
    out = torch.empty(
        (n, weight.shape[0], *offset.shape[2:]),
        dtype=input.dtype,
        device=input.device,
        memory_format=torch.channels_last if rows else torch.contiguous_format,
    )
    if out.numel() > 0:
        groups = channels // weight.shape[1] if channels else 1
        launch(
            pixel_rows(input),
            (height, width),
            offset.flatten(2),
            None if mask is None else mask.flatten(2),
            pack_weight(weight, groups, input.dtype),
            weight.shape[3],
            out.flatten(2),
            out.shape[3],
            stride,
            padding,
            dilation,
            bias,
        )
    return out
