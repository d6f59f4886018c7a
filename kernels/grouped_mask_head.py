"""grouped_mask_head in Triton: the masks of all sizes in one launch, problem sizes read in it."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NUMBERS = 4096  # features that a program reads at a time, at most
PROGRAMS_PER_ROI = 32  # at most; a program goes on to further pixels


@triton.jit
def write_mask(
    features,
    weight,
    bias,
    values,
    place,
    label,
    start,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    CLASSES: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr,
    PIXEL_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Every so many pixels of one mask; a label out of range gives zeros."""
    if CLASSES == 1:
        label = label * 0
    exists = (label >= 0) & (label < CLASSES)
    row = tl.where(exists, label, 0)
    features += place * CHANNELS * PIXELS
    weight += row * CHANNELS
    shift = tl.load(bias + row).to(tl.float32)
    for tile in range(tl.program_id(1), tl.cdiv(PIXELS, PIXEL_BLOCK), tl.num_programs(1)):
        p = tile * PIXEL_BLOCK + tl.arange(0, PIXEL_BLOCK)
        total = tl.zeros((PIXEL_BLOCK,), tl.float32)
        for first in range(0, CHANNELS, CHANNEL_BLOCK):
            c = first + tl.arange(0, CHANNEL_BLOCK)
            w = tl.load(weight + c, mask=c < CHANNELS, other=0.0).to(tl.float32)
            if ROWS:
                places = p[:, None] * CHANNELS + c[None, :]
                inside = (p[:, None] < PIXELS) & (c[None, :] < CHANNELS)
                x = tl.load(features + places, mask=inside, other=0.0).to(tl.float32)
                total += tl.sum(x * w[None, :], 1)
            else:
                places = c[:, None] * PIXELS + p[None, :]
                inside = (c[:, None] < CHANNELS) & (p[None, :] < PIXELS)
                x = tl.load(features + places, mask=inside, other=0.0).to(tl.float32)
                total += tl.sum(x * w[:, None], 0)
        total = tl.where(exists, total + shift, 0.0)
        tl.store(values + start + p, total.to(values.dtype.element_ty), mask=p < PIXELS)


@triton.jit(do_not_specialize=["rois", "numel"])  # one build for any number of RoIs
def grouped_mask_head_kernel(
    features,
    weights,
    biases,
    labels,
    state,
    order,
    mask_offsets,
    values,
    rois,
    numel,
    SHAPES: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
):
    # A program owns every so many pixels of one RoI's mask, at the size that is its own. Bound by
    # reading the features once. Nothing is read or written for an order, a state or a place in the
    # values out of range.
    place = tl.program_id(0).to(tl.int64)
    roi = tl.load(order + place)
    exists = (roi >= 0) & (roi < rois)
    roi = tl.where(exists, roi, 0)
    size = tl.where(exists, tl.load(state + roi).to(tl.int64), -1)
    label = tl.load(labels + roi).to(tl.int64)
    start = tl.load(mask_offsets + roi)
    for k in tl.static_range(len(SHAPES)):
        if (size == k) & (start >= 0) & (start + SHAPES[k][1] <= numel):
            write_mask(
                features[k],
                weights[k],
                biases[k],
                values,
                place,
                label,
                start,
                CHANNELS=SHAPES[k][0],
                PIXELS=SHAPES[k][1],
                CLASSES=SHAPES[k][2],
                CHANNEL_BLOCK=BLOCKS[k][0],
                PIXEL_BLOCK=BLOCKS[k][1],
                ROWS=ROWS,
            )


def blocks_of(channels: int) -> tuple[int, int]:
    """Channels and pixels that a program takes at a time."""
    at_once = min(triton.next_power_of_2(channels), 256)
    return at_once, min(NUMBERS // at_once, 128)


def grouped_mask_head(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    labels: Tensor,
    state: Tensor,
    order: Tensor,
    mask_offsets: Tensor,
) -> Tensor:
    """See :func:`dynamask.ops.grouped_mask_head`: the masks alone, of features sorted by size."""
    n, _, height, width = features[-1].shape
    values = features[-1].new_empty(n * height * width)
    if values.numel() == 0:
        return values
    rows = all(f.is_contiguous(memory_format=torch.channels_last) for f in features)
    features = [f if rows else f.contiguous() for f in features]
    shapes = [(f.shape[1], f.shape[2] * f.shape[3], len(w)) for f, w in zip(features, weights)]
    blocks = [blocks_of(channels) for channels, _, _ in shapes]
    tiles = max(triton.cdiv(pixels, b) for (_, pixels, _), (_, b) in zip(shapes, blocks))
    grouped_mask_head_kernel[n, min(tiles, PROGRAMS_PER_ROI)](
        tuple(features),
        tuple(w.contiguous() for w in weights),
        tuple(b.contiguous() for b in biases),
        labels.contiguous(),
        state.contiguous(),
        order.contiguous(),
        mask_offsets.contiguous(),
        values,
        n,
        values.numel(),
        SHAPES=tuple(shapes),
        BLOCKS=tuple(blocks),
        ROWS=rows,
    )
    return values
