"""The kernels of deform_conv2d_backward: one for input, offsets and mask, one for the weight."""

import torch
import triton
import triton.language as tl

from dynamask.kernels.deform_conv2d import (
    PLANES,
    SIZES,
    between,
    corners,
    load_channels,
    pixel_place,
    read_neighbours,
    sample_positions,
    step_channels,
    tile_pixels,
)


@triton.jit
def load_rows(rows, first, channels, exists, count):
    # [pixels, channels] from the first on, zeros at pixels that do not exist and after the last.
    inside = exists[:, None] & (channels < count)[None, :]
    return tl.load(rows[:, None] + (first + channels)[None, :], mask=inside, other=0.0)


@triton.jit
def add_channels(pointers, values, exists, inside, WHOLE: tl.constexpr, per_unit):
    # Adds [pixels, channels]; to whole numbers as multiples of their unit.
    if per_unit is not None:
        values = tl.floor(values.to(tl.float64) * tl.load(per_unit) + 0.5).to(tl.int64)
    if WHOLE:
        tl.atomic_add(pointers, values, mask=exists[:, None], sem="relaxed")
    else:
        tl.atomic_add(pointers, values, mask=exists[:, None] & inside, sem="relaxed")


@triton.jit(do_not_specialize=[*SIZES, *PLANES, "grad_offset_image", "grad_offset_plane"])
def deform_conv2d_backward_data_kernel(
    grad, input, offset, mask, weight, grad_input, grad_offset, grad_mask, per_unit,
    batch, height, width, out_pixels, out_width, out_channels,
    grad_image, grad_pixel, input_image, offset_image, offset_plane, offset_pixel,
    mask_image, mask_plane, mask_pixel, grad_input_image,
    grad_offset_image, grad_offset_plane, grad_offset_pixel,
    grad_mask_image, grad_mask_plane, grad_mask_pixel,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    TAPS: tl.constexpr, KERNEL_WIDTH: tl.constexpr, GROUP_CHANNELS: tl.constexpr,
    SEGMENT: tl.constexpr, OFFSET_CHANNELS: tl.constexpr, INPUT_PIXEL: tl.constexpr,
    SUM_PIXEL: tl.constexpr, WIDE: tl.constexpr, OUT_BLOCKS: tl.constexpr, RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr, PIXELS: tl.constexpr, OUT: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    # A program owns one tap of PIXELS output pixels and all channels of one offset group, so that
    # it knows the whole gradient of their offsets. Bound by the atomic additions to the four
    # neighbours; without them, by reading those.
    tap = tl.program_id(0) % TAPS
    n, q = tile_pixels(tl.program_id(0) // TAPS, out_pixels, PIXELS)
    exists = n < batch
    plane = (tl.program_id(1) * TAPS + tap).to(tl.int64)
    place = offset + n * offset_image + q.to(tl.int64) * offset_pixel + 2 * plane * offset_plane
    y, x, fy, fx = sample_positions(
        place,
        offset_plane,
        (q // out_width * stride_y - padding_y + tap // KERNEL_WIDTH * dilation_y).to(tl.float32),
        (q % out_width * stride_x - padding_x + tap % KERNEL_WIDTH * dilation_x).to(tl.float32),
        height,
        width,
        exists,
    )
    scale = tl.full((PIXELS,), 1.0, tl.float32)
    if mask is not None:
        place = mask + n * mask_image + q.to(tl.int64) * mask_pixel + plane * mask_plane
        scale = tl.load(place, mask=exists, other=0.0).to(tl.float32)
    top_left, top_right, bottom_left, bottom_right = corners(y, x, height, width)
    images, place = input + n * input_image, pixel_place(y, x, width, INPUT_PIXEL, WIDE)
    rows = grad + n * grad_image + q.to(tl.int64) * grad_pixel

    if RESIDENT:
        group = tl.program_id(1) * OFFSET_CHANNELS // GROUP_CHANNELS
        g = load_rows(rows, group * out_channels, tl.arange(0, OUT), exists, out_channels)
    product_top_left = tl.zeros((PIXELS,), tl.float32)
    product_top_right = tl.zeros((PIXELS,), tl.float32)
    product_bottom_left = tl.zeros((PIXELS,), tl.float32)
    product_bottom_right = tl.zeros((PIXELS,), tl.float32)
    SLABS: tl.constexpr = (SEGMENT + CHANNELS - 1) // CHANNELS
    for step in range(0, OFFSET_CHANNELS // SEGMENT * SLABS):
        _, first, start = step_channels(step, 1, SEGMENT, CHANNELS)
        within = start + tl.arange(0, CHANNELS)
        first += tl.program_id(1) * OFFSET_CHANNELS
        group = first // GROUP_CHANNELS
        c = first + within
        # the gradient of what the tap read
        columns = tl.zeros((PIXELS, CHANNELS), tl.float32)
        for block in range(0, OUT_BLOCKS):
            o = block * OUT + tl.arange(0, OUT)
            if not RESIDENT:
                g = load_rows(rows, group * out_channels, o, exists, out_channels)
            w = tl.load(
                weight
                + ((group * TAPS + tap) * out_channels + o)[:, None].to(tl.int64) * GROUP_CHANNELS
                + (c - group * GROUP_CHANNELS)[None, :],
                mask=(o < out_channels)[:, None] & (within < SEGMENT)[None, :],
                other=0.0,
            )
            if INTERPRETED:
                g, w = g.to(tl.float32), w.to(tl.float32)
            columns = tl.dot(g, w, columns, input_precision=PRECISION)
        # narrowed, so that half the bytes go from the layout of the product to that of the memory
        columns = columns.to(grad.dtype.element_ty).to(tl.float32)
        inside = within[None, :] < SEGMENT
        WHOLE: tl.constexpr = SEGMENT % CHANNELS == 0
        if grad_offset is not None or grad_mask is not None:
            above = images[:, None] + (place[:, None] + c[None, :])
            below = above + pixel_place(1, 0, width, INPUT_PIXEL, WIDE)
            value = load_channels(above, top_left, inside, WHOLE)
            product_top_left += tl.sum(columns * value.to(tl.float32), 1)
            value = load_channels(above + INPUT_PIXEL, top_right, inside, WHOLE)
            product_top_right += tl.sum(columns * value.to(tl.float32), 1)
            value = load_channels(below, bottom_left, inside, WHOLE)
            product_bottom_left += tl.sum(columns * value.to(tl.float32), 1)
            value = load_channels(below + INPUT_PIXEL, bottom_right, inside, WHOLE)
            product_bottom_right += tl.sum(columns * value.to(tl.float32), 1)
        if grad_input is not None:
            to = pixel_place(y, x, width, SUM_PIXEL, WIDE)[:, None] + c[None, :]
            to = (grad_input + n * grad_input_image)[:, None] + to
            to_below = to + pixel_place(1, 0, width, SUM_PIXEL, WIDE)
            top, bottom = (1.0 - fy) * scale, fy * scale
            value = columns * (top * (1.0 - fx))[:, None]
            add_channels(to, value, top_left, inside, WHOLE, per_unit)
            value = columns * (top * fx)[:, None]
            add_channels(to + SUM_PIXEL, value, top_right, inside, WHOLE, per_unit)
            value = columns * (bottom * (1.0 - fx))[:, None]
            add_channels(to_below, value, bottom_left, inside, WHOLE, per_unit)
            value = columns * (bottom * fx)[:, None]
            add_channels(to_below + SUM_PIXEL, value, bottom_right, inside, WHOLE, per_unit)

    if grad_offset is not None:
        left = product_bottom_left - product_top_left
        right = product_bottom_right - product_top_right
        top = product_top_right - product_top_left
        bottom = product_bottom_right - product_bottom_left
        place = grad_offset + n * grad_offset_image + q.to(tl.int64) * grad_offset_pixel
        place += 2 * plane * grad_offset_plane
        grad_y = scale * (left + fx * (right - left))
        grad_x = scale * (top + fy * (bottom - top))
        tl.store(place, grad_y.to(grad_offset.dtype.element_ty), mask=exists)
        tl.store(place + grad_offset_plane, grad_x.to(grad_offset.dtype.element_ty), mask=exists)
    if grad_mask is not None:
        top = (1.0 - fx) * product_top_left + fx * product_top_right
        bottom = (1.0 - fx) * product_bottom_left + fx * product_bottom_right
        place = grad_mask + n * grad_mask_image + q.to(tl.int64) * grad_mask_pixel
        read = (1.0 - fy) * top + fy * bottom
        tl.store(place + plane * grad_mask_plane, read.to(grad_mask.dtype.element_ty), mask=exists)


@triton.jit
def tile_neighbours(
    tile, k, input, offset, mask, batch, height, width, out_pixels, out_width,
    input_image, offset_image, offset_plane, offset_pixel, mask_image, mask_plane, mask_pixel,
    group_channel, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    TAPS: tl.constexpr, KERNEL_WIDTH: tl.constexpr, SEGMENT: tl.constexpr,
    OFFSET_CHANNELS: tl.constexpr, INPUT_PIXEL: tl.constexpr, WIDE: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # The neighbours of step k in a tile of pixels; zeros after the last tile.
    n, q = tile_pixels(tile, out_pixels, PIXELS)
    place = q.to(tl.int64)
    if mask is not None:
        mask += n * mask_image + place * mask_pixel
    return read_neighbours(
        k, input + n * input_image, offset + n * offset_image + place * offset_pixel, mask,
        n < batch, q // out_width * stride_y - padding_y, q % out_width * stride_x - padding_x,
        height, width, offset_plane, mask_plane, group_channel, dilation_y, dilation_x,
        TAPS, KERNEL_WIDTH, SEGMENT, OFFSET_CHANNELS, INPUT_PIXEL, WIDE, CHANNELS,
    )  # fmt: skip


@triton.jit(do_not_specialize=[*SIZES, *PLANES, "tiles"])
def deform_conv2d_backward_weight_kernel(
    grad, input, offset, mask, sums,
    batch, height, width, out_pixels, out_width, out_channels, tiles, groups,
    grad_image, grad_pixel, input_image, offset_image, offset_plane, offset_pixel,
    mask_image, mask_plane, mask_pixel,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    TAPS: tl.constexpr, KERNEL_WIDTH: tl.constexpr, GROUP_CHANNELS: tl.constexpr,
    SEGMENT: tl.constexpr, OFFSET_CHANNELS: tl.constexpr, INPUT_PIXEL: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr, PIXELS: tl.constexpr,
    OUT: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # A program owns the weights of one tap between CHANNELS channels and OUT output channels, and
    # sums over every so many-th tile of pixels; the sums of all programs are added afterwards.
    # Programs of the same tiles start together. Bound by the reads of the four neighbours.
    STEPS: tl.constexpr = GROUP_CHANNELS // SEGMENT * ((SEGMENT + CHANNELS - 1) // CHANNELS) * TAPS
    blocks = tl.cdiv(out_channels, OUT)
    k = tl.program_id(0) // blocks % STEPS
    group = tl.program_id(0) // blocks // STEPS
    o = tl.program_id(0) % blocks * OUT + tl.arange(0, OUT)
    total = tl.zeros((CHANNELS, OUT), tl.float32)
    splits = tl.num_programs(1)
    neighbours = tile_neighbours(
        tl.program_id(1), k, input, offset, mask, batch, height, width, out_pixels, out_width,
        input_image, offset_image, offset_plane, offset_pixel, mask_image, mask_plane, mask_pixel,
        group * GROUP_CHANNELS, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
        TAPS, KERNEL_WIDTH, SEGMENT, OFFSET_CHANNELS, INPUT_PIXEL, WIDE, PIXELS, CHANNELS,
    )  # fmt: skip
    a = between(neighbours)
    for tile in range(tl.program_id(1), tiles, splits):
        neighbours = tile_neighbours(
            tile + splits, k, input, offset, mask, batch, height, width, out_pixels, out_width,
            input_image, offset_image, offset_plane, offset_pixel, mask_image, mask_plane,
            mask_pixel, group * GROUP_CHANNELS,
            stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
            TAPS, KERNEL_WIDTH, SEGMENT, OFFSET_CHANNELS, INPUT_PIXEL, WIDE, PIXELS, CHANNELS,
        )  # fmt: skip
        n, q = tile_pixels(tile, out_pixels, PIXELS)
        rows = grad + n * grad_image + q.to(tl.int64) * grad_pixel
        g = load_rows(rows, group * out_channels, o, n < batch, out_channels)
        if INTERPRETED:
            a, g = a.to(tl.float32), g.to(tl.float32)
        total = tl.dot(tl.trans(a), g, total, input_precision=PRECISION)
        a = between(neighbours)

    tap, first, start = step_channels(k, TAPS, SEGMENT, CHANNELS)
    within = start + tl.arange(0, CHANNELS)
    row = (tl.program_id(1) * groups + group) * TAPS + tap
    row = row.to(tl.int64) * GROUP_CHANNELS + first + within
    inside = (within < SEGMENT)[:, None] & (o < out_channels)[None, :]
    tl.store(sums + row[:, None] * out_channels + o[None, :], total, mask=inside)


def data_block_sizes(dtype: torch.dtype, segment: int, out_channels: int) -> dict[str, int]:
    """PIXELS, OUT and CHANNELS of a program of the data kernel, and how Triton compiles it.

    As many channels as leave two blocks of programs room in the registers of a multiprocessor; as
    few warps as can hold them, since each works out for itself where a tap reads.
    """
    out, channels = (max(16, triton.next_power_of_2(x)) for x in (out_channels, segment))
    if dtype == torch.float32:
        sizes = {"PIXELS": 64, "OUT": min(32, out), "CHANNELS": min(16, channels)}
        return {**sizes, "num_warps": 8, "num_stages": 2}
    sizes = {"PIXELS": 64, "OUT": min(256, out), "CHANNELS": min(32, channels)}
    return {**sizes, "num_warps": 4 if out <= 128 else 8, "num_stages": 2}


def weight_block_sizes(dtype: torch.dtype, segment: int, out_channels: int) -> dict[str, int]:
    """PIXELS, OUT and CHANNELS of a program of the weight kernel, and how Triton compiles it.

    Up to 256 output channels, so that each sample is read once.
    """
    out, channels = (max(16, triton.next_power_of_2(x)) for x in (out_channels, segment))
    if dtype == torch.float32:
        sizes = {"PIXELS": 32, "OUT": min(64, out), "CHANNELS": min(16, channels)}
        return {**sizes, "num_warps": 4, "num_stages": 2}
    sizes = {"PIXELS": 64, "OUT": min(256, out), "CHANNELS": min(64, channels)}
    return {**sizes, "num_warps": 4 if out <= 64 else 8, "num_stages": 2}
