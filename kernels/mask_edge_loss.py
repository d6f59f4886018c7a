"""mask_edge_loss in Triton: the losses of all sizes, and what their gradients need, in one pass."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

MAX_BLOCK = 2048  # pixels at a time
PIXELS_PER_WARP = 256


@triton.jit
def class_of(labels, n, CLASSES: tl.constexpr):
    """The class of a RoI, an int64, and whether there is such a class."""
    if CLASSES > 1:
        label = tl.load(labels + n).to(tl.int64)
    else:
        label = n * 0
    exists = (label >= 0) & (label < CLASSES)
    return tl.where(exists, label, 0), exists


@triton.jit
def cross_entropy(
    n,
    logits,
    targets,
    losses,
    errors,
    labels,
    LOSS_STRIDE: tl.constexpr,
    CLASSES: tl.constexpr,
    PIXELS: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIDE_N: tl.constexpr,
    STRIDE_K: tl.constexpr,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    NEEDS_ERROR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of one plane of logits."""
    label, exists = class_of(labels, n, CLASSES)
    plane = logits + n * STRIDE_N + label * STRIDE_K
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, PIXELS, BLOCK):
        p = first + tl.arange(0, BLOCK)
        inside = p < PIXELS
        if STRIDE_Y == WIDTH * STRIDE_X:
            places = p.to(tl.int64) * STRIDE_X
        else:
            places = (p // WIDTH).to(tl.int64) * STRIDE_Y + (p % WIDTH).to(tl.int64) * STRIDE_X
        x = tl.load(plane + places, mask=inside, other=0.0).to(tl.float32)
        target = tl.load(targets + n * PIXELS + p, mask=inside, other=0).to(tl.float32)
        # log(1 + e) without the rounding of 1 + e, after Kahan
        e = tl.exp(-tl.abs(x))
        u = 1.0 + e
        log1p = tl.where(u == 1.0, e, tl.log(u) * (e / (u - 1.0)))
        loss = (1.0 - target) * x - (tl.minimum(x, 0.0) - log1p)
        total += tl.where(inside, loss, 0.0)
        if NEEDS_ERROR:
            error = tl.where(x >= 0.0, 1.0, e) / u - target
            error = tl.where(exists, error, 0.0).to(errors.dtype.element_ty)
            tl.store(errors + n * PIXELS + p, error, mask=inside)
    mean = tl.sum(total.to(tl.float64), 0) / PIXELS
    tl.store(losses + n * LOSS_STRIDE, tl.where(exists, mean, 0.0).to(tl.float32))


@triton.jit
def mask_edge_loss_kernel(
    logits, targets, losses, errors, labels, PLANES: tl.constexpr, BLOCKS: tl.constexpr
):
    # A program owns the mask, or the edge, of one RoI in one size, and adds up its pixels in an
    # order that depends on nothing but their number. Bound by memory: logits and targets are read
    # once.
    n = tl.program_id(0).to(tl.int64)
    for k in tl.static_range(len(PLANES)):
        if tl.program_id(1) == k:
            cross_entropy(
                n,
                logits[k],
                targets[k],
                losses[k],
                errors[k],
                labels,
                LOSS_STRIDE=PLANES[k][0],
                CLASSES=PLANES[k][1],
                PIXELS=PLANES[k][2],
                WIDTH=PLANES[k][3],
                STRIDE_N=PLANES[k][4],
                STRIDE_K=PLANES[k][5],
                STRIDE_Y=PLANES[k][6],
                STRIDE_X=PLANES[k][7],
                NEEDS_ERROR=PLANES[k][8],
                BLOCK=BLOCKS[k],
            )


@triton.jit
def spread(
    n,
    grad,
    errors,
    labels,
    out,
    GRAD_STRIDE: tl.constexpr,
    CLASSES: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK neighbouring numbers of the gradient of one RoI's logits [K, H, W]."""
    label, exists = class_of(labels, n, CLASSES)
    i = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    p = i - label * PIXELS
    ours = (p >= 0) & (p < tl.where(exists, PIXELS, 0))
    error = tl.load(errors + n * PIXELS + p, mask=ours, other=0.0).to(tl.float32)
    scale = tl.load(grad + n * GRAD_STRIDE).to(tl.float32) / PIXELS
    # where() keeps zeros zeros when the scale is not finite
    value = tl.where(ours, error * scale, 0.0).to(out.dtype.element_ty)
    tl.store(out + n * CLASSES * PIXELS + i, value, mask=i < CLASSES * PIXELS)


@triton.jit
def mask_edge_loss_backward_kernel(
    grads, errors, labels, out, PLANES: tl.constexpr, BLOCK: tl.constexpr
):
    # A program owns BLOCK neighbouring numbers of the gradient of one RoI's logits in one size,
    # which is zero but in the plane of the RoI's class. Bound by memory: it is written once.
    n = tl.program_id(0).to(tl.int64)
    for k in tl.static_range(len(PLANES)):
        if (tl.program_id(2) == k) & (tl.program_id(1) * BLOCK < PLANES[k][1] * PLANES[k][2]):
            spread(
                n,
                grads[k],
                errors[k],
                labels,
                out[k],
                GRAD_STRIDE=PLANES[k][0],
                CLASSES=PLANES[k][1],
                PIXELS=PLANES[k][2],
                BLOCK=BLOCK,
            )


class Plane(NamedTuple):
    """What a kernel knows of the logits of masks or edges [N, H, W] or [N, K, H, W] of one size."""

    loss_stride: int
    classes: int
    pixels: int
    width: int
    stride_n: int
    stride_k: int
    stride_y: int
    stride_x: int
    needs_error: bool

    @staticmethod
    def of(logits: Tensor, loss_stride: int, needs_error: bool) -> "Plane":
        height, width = logits.shape[-2:]
        classes, stride_k = (logits.shape[1], logits.stride(1)) if logits.dim() == 4 else (1, 0)
        strides = (logits.stride(0), stride_k, *logits.stride()[-2:])
        return Plane(loss_stride, classes, height * width, width, *strides, needs_error)


def mask_edge_loss(
    mask_logits: Sequence[Tensor],
    mask_targets: Sequence[Tensor],
    edge_logits: Sequence[Tensor],
    edge_targets: Sequence[Tensor],
    labels: Tensor | None,
    needs_mask: bool,
    needs_edge: bool,
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """See :func:`dynamask.ops.mask_edge_loss`; a label out of range gives a loss of zero."""
    n, masks, edges = mask_logits[0].shape[0], len(mask_logits), len(edge_logits)
    of_masks = mask_logits[0].new_empty(n, masks, dtype=torch.float32)
    of_edges = mask_logits[0].new_empty(n, edges, dtype=torch.float32)
    mask_errors, edge_errors = (
        [x.new_empty(n, *x.shape[-2:]) for x in logits] if needed else []
        for logits, needed in ((mask_logits, needs_mask), (edge_logits, needs_edge))
    )
    logits = (*mask_logits, *edge_logits)
    planes = [Plane.of(x, masks, needs_mask) for x in mask_logits]
    planes += [Plane.of(x, edges, needs_edge) for x in edge_logits]
    blocks = [_block(plane.pixels) for plane in planes]
    if n > 0:
        mask_edge_loss_kernel[(n, len(planes))](
            logits,
            tuple(_flat(targets) for targets in (*mask_targets, *edge_targets)),
            (*of_masks.unbind(1), *of_edges.unbind(1)),
            (*(mask_errors or mask_logits), *(edge_errors or edge_logits)),
            of_masks if labels is None else labels.contiguous(),
            PLANES=tuple(tuple(plane) for plane in planes),
            BLOCKS=tuple(blocks),
            num_warps=_warps(max(blocks)),
        )
    return of_masks, of_edges, mask_errors, edge_errors


def mask_edge_loss_backward(
    grads: Sequence[Tensor],
    errors: Sequence[Tensor],
    labels: Tensor | None,
    num_classes: Sequence[int],
) -> list[Tensor]:
    """The gradients of logits [N, H, W], where num_classes is 0, or [N, num_classes, H, W]."""
    n = errors[0].shape[0]
    out = [
        error.new_empty(n, *([classes] if classes > 0 else []), *error.shape[1:])
        for error, classes in zip(errors, num_classes)
    ]
    planes = [
        (grad.stride(0), max(1, classes), error.shape[1] * error.shape[2])
        for grad, error, classes in zip(grads, errors, num_classes)
    ]
    most = max(classes * pixels for _, classes, pixels in planes)
    if n > 0 and most > 0:
        block = _block(most)
        mask_edge_loss_backward_kernel[(n, triton.cdiv(most, block), len(planes))](
            tuple(grads),
            tuple(error.contiguous() for error in errors),
            grads[0] if labels is None else labels.contiguous(),
            tuple(out),
            PLANES=tuple(planes),
            BLOCK=block,
            num_warps=_warps(block),
        )
    return out


def _flat(targets: Tensor) -> Tensor:
    targets = targets.contiguous()
    return targets.view(torch.uint8) if targets.dtype == torch.bool else targets


def _block(numbers: int) -> int:
    return min(MAX_BLOCK, triton.next_power_of_2(max(1, numbers)))


def _warps(block: int) -> int:
    return min(8, max(1, block // PIXELS_PER_WARP))
