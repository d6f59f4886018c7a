"""class_logits in Triton: one weight row per RoI, read next to the pixels it is for."""

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

CHANNELS = 32  # at a time
PIXELS = 64


@triton.jit
def class_logits_kernel(
    features,
    weight,
    bias,
    labels,
    out,
    channels,
    pixels,
    classes,
    ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SUM: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    # A program owns PIXELS pixels of one RoI. Bound by memory: it reads their features once, along
    # the channels where those are innermost (ROWS), else along the pixels.
    n = tl.program_id(0).to(tl.int64)
    p = tl.program_id(1).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    label = tl.load(labels + n)
    exists = (label >= 0) & (label < classes)
    row = tl.where(exists, label, 0).to(tl.int64)
    total = tl.zeros((PIXELS,), SUM)
    for first in range(0, channels, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        if ROWS:
            places = p[None, :] * channels + c[:, None]
        else:
            places = c[:, None].to(tl.int64) * pixels + p[None, :]
        inside = (c[:, None] < channels) & (p[None, :] < pixels)
        x = tl.load(features + n * channels * pixels + places, mask=inside, other=0.0).to(SUM)
        w = tl.load(weight + row * channels + c, mask=c < channels, other=0.0).to(SUM)
        total += tl.sum(x * w[:, None], 0)
    if HAS_BIAS:
        total += tl.load(bias + row).to(SUM)
    total = tl.where(exists, total, 0.0)
    tl.store(out + n * pixels + p, total.to(out.dtype.element_ty), mask=p < pixels)


def class_logits(features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """See :func:`dynamask.ops.class_logits`; a label out of range gives zeros."""
    n, channels, height, width = features.shape
    out = features.new_empty(n, height, width)
    if out.numel() == 0:
        return out
    rows = features.is_contiguous(memory_format=torch.channels_last)
    features = features if rows else features.contiguous()
    weight = weight.contiguous()
    pixels = height * width
    grid = (n, triton.cdiv(pixels, PIXELS))
    class_logits_kernel[grid](
        features,
        weight,
        weight if bias is None else bias.contiguous(),
        labels.contiguous(),
        out,
        channels,
        pixels,
        weight.shape[0],
        ROWS=rows,
        HAS_BIAS=bias is not None,
        SUM=tl.float64 if features.dtype == torch.float64 else tl.float32,
        CHANNELS=CHANNELS,
        PIXELS=PIXELS,
    )
    return out
