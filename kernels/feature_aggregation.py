"""feature_aggregation in Triton: six launches over channels_last tensors, nothing concatenated.

The doubled features x and the projected crop p lie side by side in one tensor, the pair
[N, 2H, 2W, 2C'], so that the convolution of the first offsets reads both as one, and the deformable
convolution its half of them. What is stored between launches is of the dtype of the features, the
offsets are fp32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynamask.kernels.deform_conv2d import INTERPRETED, launch, pack_weight, precision_of_products

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@triton.jit(do_not_specialize=["rois", "height", "width"])
def conv2d_kernel(
    x,
    weight,
    bias,
    out,
    count,
    rois,
    height,
    width,
    channels,
    outs,
    SIDE: tl.constexpr,
    RELU: tl.constexpr,
    PLANES: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUTS: tl.constexpr,
):
    # A convolution of SIDE x SIDE, 1 or 3, that keeps the size. A program owns OUTS outputs of
    # PIXELS pixels in a row, of one RoI or several, the first and the last of which are there for
    # their neighbours if SIDE is 3. Bound by the way of pixels and weights through shared memory,
    # as there are few outputs: so a pixel goes there once for each row of the window, not for each
    # tap, and what it adds to the pixels left and right of it moves there at the end.
    EDGE: tl.constexpr = SIDE // 2
    pixels = height * width
    blocks = tl.cdiv(outs, OUTS)
    o = tl.program_id(0) % blocks * OUTS + tl.arange(0, OUTS)
    first = (tl.program_id(0) // blocks).to(tl.int64) * (PIXELS - 2 * EDGE)
    first_roi = first // pixels
    if count is not None:
        rois = tl.minimum(tl.load(count), rois)
    if first_roi >= rois:
        return
    i = tl.arange(0, PIXELS) - EDGE
    place = (first - first_roi * pixels).to(tl.int32) + i
    roi = place // pixels  # from the first on
    exists = (place >= 0) & (first_roi + roi < rois)
    p = place % pixels
    py, px = p // width, p % width
    x += first * channels

    chunks = tl.cdiv(channels, CHANNELS)
    acc = tl.zeros((PIXELS, OUTS), tl.float32)
    if SIDE == 3:
        to_right, to_left = tl.zeros_like(acc), tl.zeros_like(acc)
    for k in range(0, SIDE * chunks):
        row = k // chunks
        dy = row - EDGE
        c = (k - row * chunks) * CHANNELS + tl.arange(0, CHANNELS)
        inside = exists & (py + dy >= 0) & (py + dy < height)
        a = tl.load(
            x + ((i + dy * width)[:, None] * channels + c[None, :]),
            mask=inside[:, None] & (c[None, :] < channels),
            other=0.0,
        )
        of_row = weight + ((o * SIDE + row) * SIDE)[None, :] * channels + c[:, None]
        wanted = (o[None, :] < outs) & (c[:, None] < channels)
        b = tl.load(of_row + EDGE * channels, mask=wanted, other=0.0)
        if INTERPRETED:
            a, b = a.to(tl.float32), b.to(tl.float32)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        if SIDE == 3:
            b = tl.load(of_row, mask=wanted, other=0.0).to(a.dtype)
            to_right = tl.dot(a, b, to_right, input_precision=PRECISION)
            b = tl.load(of_row + 2 * channels, mask=wanted, other=0.0).to(a.dtype)
            to_left = tl.dot(a, b, to_left, input_precision=PRECISION)

    if SIDE == 3:
        at = tl.broadcast_to(tl.arange(0, PIXELS)[:, None], (PIXELS, OUTS))
        from_left = tl.gather(to_right, tl.maximum(at - 1, 0), 0)
        from_right = tl.gather(to_left, tl.minimum(at + 1, PIXELS - 1), 0)
        acc += tl.where((px > 0)[:, None], from_left, 0.0)
        acc += tl.where((px < width - 1)[:, None], from_right, 0.0)
    acc += tl.load(bias + o, mask=o < outs, other=0.0).to(tl.float32)[None, :]
    if RELU:
        acc = tl.where(acc < 0.0, 0.0, acc)
    if PLANES:
        out += first_roi * outs * pixels
        at = ((roi * outs)[:, None] + o[None, :]) * pixels + p[:, None]
    else:
        out += first * outs
        at = i[:, None] * outs + o[None, :]
    stored = exists & (i >= 0) & (i < PIXELS - 2 * EDGE)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=stored[:, None] & (o[None, :] < outs))


@triton.jit
def sample_axis(low, high, scale, bins, i, length):
    # Bin i of one axis of a box, sampled in its middle: the two pixels it lies between, how far it
    # is from the first, and whether it is on the level at all. No number is not.
    start = low * scale - 0.5
    step = ((high * scale - 0.5) - start) / bins
    position = start + i * step + 0.5 * step
    valid = (position >= -1.0) & (position <= length)
    position = tl.where(valid, position, 0.0)
    position = tl.minimum(tl.maximum(position, 0.0), length - 1)
    near = position.to(tl.int32)
    return near, tl.minimum(near + 1, length - 1), position - near, valid


@triton.jit
def interpolate(rows, width, channels, c, near_y, far_y, fy, near_x, far_x, fx, mask):
    # Between four pixels of rows of channels: fp32 [pixels, c].
    top, bottom = near_y.to(tl.int64) * width, far_y.to(tl.int64) * width
    top_left = rows + ((top + near_x) * channels)[:, None] + c[None, :]
    top_right = rows + ((top + far_x) * channels)[:, None] + c[None, :]
    bottom_left = rows + ((bottom + near_x) * channels)[:, None] + c[None, :]
    bottom_right = rows + ((bottom + far_x) * channels)[:, None] + c[None, :]
    value = ((1 - fy) * (1 - fx))[:, None] * tl.load(top_left, mask, other=0.0).to(tl.float32)
    value += ((1 - fy) * fx)[:, None] * tl.load(top_right, mask, other=0.0).to(tl.float32)
    value += (fy * (1 - fx))[:, None] * tl.load(bottom_left, mask, other=0.0).to(tl.float32)
    value += (fy * fx)[:, None] * tl.load(bottom_right, mask, other=0.0).to(tl.float32)
    return value


@triton.jit(do_not_specialize=["rois", "batch", "height", "width", "level_height", "level_width"])
def pair_kernel(
    low,
    level,
    boxes,
    weight,
    bias,
    pair,
    count,
    rois,
    batch,
    height,
    width,
    level_height,
    level_width,
    channels,
    scale,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUTS: tl.constexpr,
):
    # A program owns PIXELS pixels of the pair of one RoI: OUTS channels of `low` doubled, and as
    # many of the crop projected. Bound by memory: it reads four pixels, mostly of the L1 cache, for
    # each that it writes.
    pixels = 4 * height * width
    tiles, blocks = tl.cdiv(pixels, PIXELS), tl.cdiv(channels, OUTS)
    first = tl.program_id(0) % blocks * OUTS
    tile = tl.program_id(0) // blocks
    roi = (tile // tiles).to(tl.int64)
    if count is not None:
        rois = tl.minimum(tl.load(count), rois)
    if roi >= rois:
        return
    p = tile % tiles * PIXELS + tl.arange(0, PIXELS)
    exists = p < pixels
    py, px = p // (2 * width), p % (2 * width)
    pair += (roi * pixels + p)[:, None] * (2 * channels)

    low += roi * height * width * channels
    near_y, near_x = py // 2, px // 2
    far_y = tl.minimum(tl.maximum(near_y + 2 * (py % 2) - 1, 0), height - 1)
    far_x = tl.minimum(tl.maximum(near_x + 2 * (px % 2) - 1, 0), width - 1)
    quarter = tl.full((PIXELS,), 0.25, tl.float32)
    for start in range(0, OUTS, CHANNELS):
        c = first + start + tl.arange(0, CHANNELS)
        mask = exists[:, None] & (c[None, :] < channels)
        x = interpolate(
            low, width, channels, c, near_y, far_y, quarter, near_x, far_x, quarter, mask
        )
        tl.store(pair + c[None, :], x.to(pair.dtype.element_ty), mask=mask)

    boxes += roi * 5
    image, x1, y1 = tl.load(boxes), tl.load(boxes + 1), tl.load(boxes + 2)
    y1 = tl.where((image >= 0) & (image < batch), y1, float("nan"))  # no such image: as no number
    image = tl.where((image >= 0) & (image < batch), image, 0.0).to(tl.int64)
    level += image * level_height * level_width * channels
    near_y, far_y, fy, valid_y = sample_axis(
        y1, tl.load(boxes + 4), scale, 2 * height, py, level_height
    )
    near_x, far_x, fx, valid_x = sample_axis(
        x1, tl.load(boxes + 3), scale, 2 * width, px, level_width
    )
    sampled = exists & valid_y & valid_x
    o = first + tl.arange(0, OUTS)
    acc = tl.zeros((PIXELS, OUTS), tl.float32)
    for start in range(0, channels, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        mask = sampled[:, None] & (c[None, :] < channels)
        a = interpolate(level, level_width, channels, c, near_y, far_y, fy, near_x, far_x, fx, mask)
        b = tl.load(
            weight + (o[None, :] * channels + c[:, None]),
            mask=(o[None, :] < channels) & (c[:, None] < channels),
            other=0.0,
        )
        a = a.to(b.dtype)
        if INTERPRETED:
            a, b = a.to(tl.float32), b.to(tl.float32)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    acc += tl.load(bias + o, mask=o < channels, other=0.0).to(tl.float32)[None, :]
    acc = tl.where(acc < 0.0, 0.0, acc)
    tl.store(
        pair + (channels + o)[None, :],
        acc.to(pair.dtype.element_ty),
        mask=exists[:, None] & (o[None, :] < channels),
    )


def block_sizes(dtype: torch.dtype, channels: int, outs: int, most: int) -> dict[str, int]:
    """What a program takes on at a time, at most `most` channels of 16 bits, and its warps."""
    whole = dtype == torch.float32
    outs = min(max(16, triton.next_power_of_2(outs)), 64 if whole else 128)
    channels = min(max(16, triton.next_power_of_2(channels)), 16 if whole else most)
    return {"PIXELS": 64, "CHANNELS": channels, "OUTS": outs, "num_warps": 8 if outs == 128 else 4}


def conv2d_sizes(dtype: torch.dtype, side: int, channels: int, outs: int) -> dict[str, int]:
    """What `conv2d_kernel` is compiled for."""
    whole = dtype == torch.float32
    sizes = block_sizes(dtype, channels, outs, most=64)
    if side == 1:
        return {**sizes, "num_stages": 2 if whole else 3}
    # three sums for each output; and loads that run ahead of their use (stages) would go past the
    # L1 cache, in which two of three rows of pixels are found
    tile = {"PIXELS": 64, "num_warps": 4} if whole else {"PIXELS": 128, "num_warps": 8}
    return {**sizes, **tile, "OUTS": min(32, sizes["OUTS"]), "num_stages": 1}


def pair_sizes(dtype: torch.dtype, channels: int) -> dict[str, int]:
    """What `pair_kernel` is compiled for."""
    return {**block_sizes(dtype, channels, channels, most=32), "num_stages": 1}


def precision() -> dict[str, object]:
    """How products are computed: the constants that all kernels share."""
    return {"PRECISION": precision_of_products(), "INTERPRETED": INTERPRETED}


def weight_rows(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """[O, C, kH, kW] -> [O, kH, kW, C], itself if it lies so, else in one copy."""
    rows = weight.permute(0, 2, 3, 1)
    if rows.dtype == dtype and rows.is_contiguous():
        return rows
    return torch.empty(rows.shape, dtype=dtype, device=rows.device).copy_(rows)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor, count: Tensor | None, *, to_offsets: bool
) -> Tensor:
    """[N, H, W, C] -> the same of O channels after a ReLU, or offsets: fp32 [N, O, H, W]."""
    n, height, width, channels = x.shape
    outs, _, side, _ = weight.shape
    if to_offsets:
        out = x.new_empty(n, outs, height, width, dtype=torch.float32)
    else:
        out = x.new_empty(n, height, width, outs)
    sizes = conv2d_sizes(x.dtype, side, channels, outs)
    tiles = triton.cdiv(n * height * width, sizes["PIXELS"] - side // 2 * 2)
    conv2d_kernel[(tiles * triton.cdiv(outs, sizes["OUTS"]),)](
        *(x, weight_rows(weight, x.dtype), bias.contiguous(), out),
        *(count, n, height, width, channels, outs),
        SIDE=side,
        RELU=not to_offsets,
        PLANES=to_offsets,
        **precision(),
        **sizes,
    )
    return out


def aggregate_pair(
    low: Tensor,
    level: Tensor,
    rois: Tensor,
    spatial_scale: float,
    weight: Tensor,
    bias: Tensor,
    count: Tensor | None,
) -> Tensor:
    """[N, H, W, C'] -> itself doubled and the projected crop of the level, [N, 2H, 2W, 2C']."""
    n, height, width, channels = low.shape
    pair = low.new_empty(n, 2 * height, 2 * width, 2 * channels)
    sizes = pair_sizes(low.dtype, channels)
    tiles = triton.cdiv(4 * height * width, sizes["PIXELS"])
    pair_kernel[(n * tiles * triton.cdiv(channels, sizes["OUTS"]),)](
        *(low, level, rois.float().contiguous(), weight_rows(weight, low.dtype)),
        *(bias.contiguous(), pair, count, n),
        level.shape[0] if level.numel() > 0 else 0,
        *(height, width, *level.shape[1:3], channels, spatial_scale),
        **precision(),
        **sizes,
    )
    return pair


def feature_aggregation(
    x: Tensor,
    level: Tensor,
    rois: Tensor,
    spatial_scale: float,
    count: Tensor | None,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
    offset1_weight: Tensor,
    offset1_bias: Tensor,
    align_weight: Tensor,
    offset2_weight: Tensor,
    offset2_bias: Tensor,
    attend_weight: Tensor,
) -> Tensor:
    """See :func:`dynamask.ops.feature_aggregation`; a box on no image crops zeros."""
    n, _, height, width = x.shape
    channels = reduce_weight.shape[0]
    rows = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    out = torch.empty(
        (n, channels, 2 * height, 2 * width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if rows else torch.contiguous_format,
    )
    if out.numel() == 0:
        return out
    x, level = (t.permute(0, 2, 3, 1).contiguous() for t in (x, level.to(x.dtype)))
    low = conv2d(x, reduce_weight, reduce_bias, count, to_offsets=False)
    pair = aggregate_pair(low, level, rois, spatial_scale, project_weight, project_bias, count)

    def deform(x: Tensor, offset: Tensor, weight: Tensor, out: Tensor, plus: Tensor | None) -> None:
        launch(
            x,
            (2 * height, 2 * width),
            offset.flatten(2),
            None,
            pack_weight(weight, 1, x.dtype),
            3,
            out,
            2 * width,
            *([1, 1], [1, 1], [1, 1]),
            relu=True,
            residual=plus,
            count=count,
        )

    doubled, crop = pair.flatten(1, 2).mT.chunk(2, 1)  # [N, C', 4HW] each, channels innermost
    fused = pair.new_empty(*pair.shape[:3], channels)
    offset = conv2d(pair, offset1_weight, offset1_bias, count, to_offsets=True)
    deform(doubled, offset, align_weight, fused.flatten(1, 2).mT, crop)
    del low, pair, doubled, crop, offset  # room for the next offsets
    offset = conv2d(fused, offset2_weight, offset2_bias, count, to_offsets=True)
    deform(fused.flatten(1, 2).mT, offset, attend_weight, out.flatten(2), None)
    return out
