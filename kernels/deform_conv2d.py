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
    # [0, 1) below and right of (y, x). A coordinate outside, or one that is no number, is moved to
    # the far edge, where all neighbours are zeros; so are both where there is no pixel.
    v = base_y + tl.load(offset, mask=exists, other=float("nan")).to(tl.float32)
    u = base_x + tl.load(offset + plane, mask=exists, other=float("nan")).to(tl.float32)
    v = tl.where((v >= -1.0) & (v < height), v, height)
    u = tl.where((u >= -1.0) & (u < width), u, width)
    y, x = tl.floor(v), tl.floor(u)
    return y.to(tl.int32), x.to(tl.int32), v - y, u - x


@triton.jit
def corners(y, x, height, width):
    # Which of the four neighbours of a position are in the image; -1 is a large unsigned number.
    top, bottom = y.to(tl.uint32) < tl.cast(height, tl.uint32), y + 1 < height
    left, right = x.to(tl.uint32) < tl.cast(width, tl.uint32), x + 1 < width
    return top & left, top & right, bottom & left, bottom & right


@triton.jit
def load_channels(pointers, exists, inside, WHOLE: tl.constexpr):
    # [pixels, channels], zeros at pixels that do not exist; WHOLE: all channels are inside.
    if WHOLE:
        return tl.load(pointers, mask=exists[:, None], other=0.0)
    return tl.load(pointers, mask=exists[:, None] & inside, other=0.0)


@triton.jit
def step_channels(k, TAPS: tl.constexpr, SEGMENT: tl.constexpr, CHANNELS: tl.constexpr):
    # Step k is a tap of CHANNELS channels of a segment: the tap, the first channel of the segment,
    # and the first of these in it. Taps are innermost: they find the channels they share in the L1.
    SLABS: tl.constexpr = (SEGMENT + CHANNELS - 1) // CHANNELS
    return k % TAPS, k // TAPS // SLABS * SEGMENT, k // TAPS % SLABS * CHANNELS


@triton.jit
def read_neighbours(
    k, images, offset, mask, exists, base_y, base_x, height, width, offset_plane, mask_plane,
    group_channel, dilation_y, dilation_x, TAPS: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
    SEGMENT: tl.constexpr, OFFSET_CHANNELS: tl.constexpr, INPUT_PIXEL: tl.constexpr,
    WIDE: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # The four neighbours of where step k of the sum reads the input, [PIXELS, CHANNELS], and their
    # weights; zeros at pixels that do not exist.
    tap, first, start = step_channels(k, TAPS, SEGMENT, CHANNELS)
    first += group_channel
    plane = tl.cast(first // OFFSET_CHANNELS * TAPS + tap, tl.int64)
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
    within = start + tl.arange(0, CHANNELS)
    inside = within[None, :] < SEGMENT
    WHOLE: tl.constexpr = SEGMENT % CHANNELS == 0
    place = pixel_place(y, x, width, INPUT_PIXEL, WIDE)
    above = images[:, None] + (place[:, None] + (first + within)[None, :])
    below = above + pixel_place(1, 0, width, INPUT_PIXEL, WIDE)
    return (
        (top * (1.0 - fx), load_channels(above, top_left, inside, WHOLE)),
        (top * fx, load_channels(above + INPUT_PIXEL, top_right, inside, WHOLE)),
        (bottom * (1.0 - fx), load_channels(below, bottom_left, inside, WHOLE)),
        (bottom * fx, load_channels(below + INPUT_PIXEL, bottom_right, inside, WHOLE)),
    )


@triton.jit
def pixel_place(y, x, width, pixel, WIDE: tl.constexpr):
    # How far into an image a pixel is; WIDE: in 64 bits.
    place = y * width + x
    if WIDE:
        place = tl.cast(place, tl.int64)  # of a width of 1, the next row is a constant
    return place * pixel


@triton.jit
def widened(x):
    # To fp32. A bf16 is its upper half: spelt out, two of one register take two instructions, not
    # three.
    if x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return x.to(tl.float32)


@triton.jit
def between(neighbours):
    # The input between them, rounded once: sums in its own dtype, two numbers an instruction, would
    # err four times as much in bf16.
    top_left, top_right, bottom_left, bottom_right = neighbours
    x = top_left[0][:, None] * widened(top_left[1])
    x += top_right[0][:, None] * widened(top_right[1])
    x += bottom_left[0][:, None] * widened(bottom_left[1])
    x += bottom_right[0][:, None] * widened(bottom_right[1])
    return x.to(top_left[1].dtype)


@triton.jit
def load_weight(
    k, weight, o, out_channels, TAPS: tl.constexpr, GROUP_CHANNELS: tl.constexpr,
    SEGMENT: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # Of step k, [CHANNELS, outputs].
    tap, first, start = step_channels(k, TAPS, SEGMENT, CHANNELS)
    c = tl.arange(0, CHANNELS)
    weight += (tap * GROUP_CHANNELS + first + start) * out_channels
    inside = (c[:, None] < SEGMENT - start) & (o[None, :] < out_channels)
    return tl.load(weight + (c[:, None] * out_channels + o[None, :]), mask=inside, other=0.0)


@triton.jit
def multiply(a, b, acc, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def store_outputs(y, o, group, exists, residual, residual_channel, out, out_channel, out_channels):
    # [pixels, outputs of a group from o on], plus the residual; that and out point to each pixel.
    # In parts of as many outputs as o: addresses of all would take more registers than the sums.
    OUT: tl.constexpr = y.shape[1]
    if o.shape[0] < OUT:
        low, high = tl.split(tl.permute(tl.reshape(y, (y.shape[0], 2, OUT // 2)), (0, 2, 1)))
        store_outputs(
            low, o, group, exists, residual, residual_channel, out, out_channel, out_channels
        )
        o += OUT // 2
        store_outputs(
            high, o, group, exists, residual, residual_channel, out, out_channel, out_channels
        )
    else:
        stored = exists[:, None] & (o < out_channels)[None, :]
        o = (o + group * out_channels)[None, :].to(tl.int64)
        if residual is not None:
            x = tl.load(residual[:, None] + o * residual_channel, mask=stored, other=0.0)
            y += x.to(tl.float32)
        tl.store(out[:, None] + o * out_channel, y.to(out.dtype.element_ty), mask=stored)


# One build for any number and size of images; only distances that addresses of 16 bytes hang on are
# looked at for their divisors.
SIZES = ("batch", "height", "width", "out_pixels", "out_width")
PLANES = ("offset_image", "offset_plane", "mask_image", "mask_plane")


@triton.jit(do_not_specialize=[*SIZES, *PLANES])
def deform_conv2d_kernel(
    input, offset, mask, weight, bias, residual, out, count,
    batch, height, width, out_pixels, out_width, out_channels,
    input_image, offset_image, offset_plane, offset_pixel,
    mask_image, mask_plane, mask_pixel,
    out_image, out_channel, out_pixel, residual_image, residual_channel, residual_pixel,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    TAPS: tl.constexpr, KERNEL_WIDTH: tl.constexpr, GROUP_CHANNELS: tl.constexpr,
    SEGMENT: tl.constexpr, OFFSET_CHANNELS: tl.constexpr, INPUT_PIXEL: tl.constexpr,
    WIDE: tl.constexpr, RELU: tl.constexpr,
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
    limit = tl.cast(batch, tl.int32)
    if count is not None:
        limit = tl.minimum(limit, tl.load(count)).to(tl.int32)
    if tile.to(tl.int64) * PIXELS >= limit.to(tl.int64) * out_pixels:
        return
    n, q = tile_pixels(tile, out_pixels, PIXELS)
    base_y = q // out_width * stride_y - padding_y
    base_x = q % out_width * stride_x - padding_x
    images = input + n * input_image
    image = n.to(tl.int32)
    exists = image < limit
    weight += (group * TAPS * GROUP_CHANNELS).to(tl.int64) * out_channels
    offset += n * offset_image + q.to(tl.int64) * offset_pixel
    if mask is not None:
        mask += n * mask_image + q.to(tl.int64) * mask_pixel

    acc = tl.zeros((PIXELS, OUT), tl.float32)
    STEPS: tl.constexpr = GROUP_CHANNELS // SEGMENT * ((SEGMENT + CHANNELS - 1) // CHANNELS) * TAPS
    if STEPS > 0:
        neighbours = read_neighbours(
            0, images, offset, mask, exists, base_y, base_x, height, width, offset_plane,
            mask_plane, group * GROUP_CHANNELS, dilation_y, dilation_x,
            TAPS, KERNEL_WIDTH, SEGMENT, OFFSET_CHANNELS, INPUT_PIXEL, WIDE, CHANNELS,
        )  # fmt: skip
        a = between(neighbours)
        for k in range(0, STEPS - 1):
            # the next neighbours arrive during the product; read where they are multiplied, the
            # compiler would copy all four to shared memory
            neighbours = read_neighbours(
                k + 1, images, offset, mask, exists, base_y, base_x, height, width, offset_plane,
                mask_plane, group * GROUP_CHANNELS, dilation_y, dilation_x,
                TAPS, KERNEL_WIDTH, SEGMENT, OFFSET_CHANNELS, INPUT_PIXEL, WIDE, CHANNELS,
            )  # fmt: skip
            b = load_weight(k, weight, o, out_channels, TAPS, GROUP_CHANNELS, SEGMENT, CHANNELS)
            acc = multiply(a, b, acc, PRECISION, INTERPRETED)
            a = between(neighbours)
        b = load_weight(STEPS - 1, weight, o, out_channels, TAPS, GROUP_CHANNELS, SEGMENT, CHANNELS)
        acc = multiply(a, b, acc, PRECISION, INTERPRETED)

    if bias is not None:
        at = bias + group * out_channels + o
        acc += tl.load(at, mask=o < out_channels, other=0.0).to(tl.float32)[None, :]
    if RELU:
        acc = tl.where(acc < 0.0, 0.0, acc)
    out += n * out_image + q.to(tl.int64) * out_pixel
    if residual is not None:
        residual += n * residual_image + q.to(tl.int64) * residual_pixel
    else:
        acc = acc.to(out.dtype.element_ty)
    o = tl.program_id(1) % blocks * OUT + tl.arange(0, min(OUT, 64))
    store_outputs(acc, o, group, exists, residual, residual_channel, out, out_channel, out_channels)


def block_sizes(dtype: torch.dtype, segment: int, out_channels: int) -> dict[str, int]:
    """PIXELS, OUT and CHANNELS of a program, and how Triton compiles it.

    Up to 256 output channels, so that each sample is read once. A thread has 16 bytes of each
    neighbour of one pixel or two: work of a warp, not of a pixel, is shared by two, but 256 output
    channels take all registers of a multiprocessor for two programs, one of which samples while the
    other multiplies. In fp32, as many sums as the registers of a thread hold.
    """
    out, channels = (max(16, triton.next_power_of_2(x)) for x in (out_channels, segment))
    if dtype == torch.float32:
        sizes = {"PIXELS": 64, "OUT": min(128, out), "CHANNELS": 16}
        return {**sizes, "num_warps": 8, "num_stages": 2}
    sizes = {"PIXELS": 64, "OUT": min(256, out), "CHANNELS": min(32, channels)}
    warps_and_stages = (
        {"num_warps": 8, "num_stages": 3} if out > 128 else {"num_warps": 4, "num_stages": 2}
    )
    return {**sizes, **warps_and_stages}


def precision_of_products() -> str:
    """Of those of fp32: what torch was told for its own, in its older words or the newer."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


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
    grid = (
        triton.cdiv(batch * pixels, sizes["PIXELS"]),
        groups * triton.cdiv(out_channels, sizes["OUT"]),
    )

    def strides(x):
        return (0, 0, 0) if x is None else x.stride()

    deform_conv2d_kernel[grid](
        *(input, offset, mask, weight, bias, residual, out, count),
        *(batch, *size, pixels, out_width, out_channels),
        input.stride(0),
        *(*strides(offset), *strides(mask), *strides(out), *strides(residual)),
        *(*stride, *padding, *dilation),
        TAPS=taps,
        KERNEL_WIDTH=kernel_width,
        GROUP_CHANNELS=channels,
        SEGMENT=segment,
        OFFSET_CHANNELS=offset_channels,
        INPUT_PIXEL=input.stride(2),
        WIDE=size[0] * size[1] * input.stride(2) >= 2**31,
        RELU=relu,
        PRECISION=precision_of_products(),
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
