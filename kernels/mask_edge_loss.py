"""mask_edge_loss in Triton: the losses, and what their gradients need, in one pass."""

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

MAX_BLOCK = 2048  # pixels at a time
PIXELS_PER_WARP = 256


@triton.jit
def class_of(labels, n, classes, HAS_CLASSES: tl.constexpr):
    """The class of a RoI, an int64, and whether there is such a class."""
    if HAS_CLASSES:
        label = tl.load(labels + n).to(tl.int64)
    else:
        label = n * 0
    exists = (label >= 0) & (label < classes)
    return tl.where(exists, label, 0), exists


@triton.jit
def cross_entropy(
    n,
    logits,
    targets,
    labels,
    losses,
    errors,
    classes,
    pixels,
    width,
    stride_n,
    stride_k,
    stride_y,
    stride_x,
    HAS_CLASSES: tl.constexpr,
    EVEN: tl.constexpr,
    NEEDS_ERROR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of one plane of logits; EVEN: its pixels are stride_x apart, also from row to row."""
    label, exists = class_of(labels, n, classes, HAS_CLASSES)
    plane = logits + n * stride_n + label * stride_k
    first_pixel = n * pixels
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, pixels, BLOCK):
        p = first + tl.arange(0, BLOCK)
        inside = p < pixels
        if EVEN:
            places = p.to(tl.int64) * stride_x
        else:
            places = (p // width).to(tl.int64) * stride_y + (p % width).to(tl.int64) * stride_x
        x = tl.load(plane + places, mask=inside, other=0.0).to(tl.float32)
        target = tl.load(targets + first_pixel + p, mask=inside, other=0).to(tl.float32)
        # log(1 + e) without the rounding of 1 + e, after Kahan
        e = tl.exp(-tl.abs(x))
        u = 1.0 + e
        log1p = tl.where(u == 1.0, e, tl.log(u) * (e / (u - 1.0)))
        loss = (1.0 - target) * x - (tl.minimum(x, 0.0) - log1p)
        total += tl.where(inside, loss, 0.0)
        if NEEDS_ERROR:
            error = tl.where(x >= 0.0, 1.0, e) / u - target
            error = tl.where(exists, error, 0.0).to(errors.dtype.element_ty)
            tl.store(errors + first_pixel + p, error, mask=inside)
    mean = tl.sum(total.to(tl.float64), 0) / pixels
    tl.store(losses + n, tl.where(exists, mean, 0.0).to(tl.float32))


@triton.jit
def mask_edge_loss_kernel(
    labels,
    mask_logits,
    mask_targets,
    mask_losses,
    mask_errors,
    mask_classes,
    mask_pixels,
    mask_width,
    mask_stride_n,
    mask_stride_k,
    mask_stride_y,
    mask_stride_x,
    edge_logits,
    edge_targets,
    edge_losses,
    edge_errors,
    edge_classes,
    edge_pixels,
    edge_width,
    edge_stride_n,
    edge_stride_k,
    edge_stride_y,
    edge_stride_x,
    MASK_HAS_CLASSES: tl.constexpr,
    MASK_EVEN: tl.constexpr,
    NEEDS_MASK: tl.constexpr,
    EDGE_HAS_CLASSES: tl.constexpr,
    EDGE_EVEN: tl.constexpr,
    NEEDS_EDGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # A program owns the mask, or the edge, of one RoI, and adds up its pixels in an order that
    # depends on nothing but their number. Bound by memory: logits and targets are read once.
    n = tl.program_id(0).to(tl.int64)
    if tl.program_id(1) == 0:
        cross_entropy(
            n,
            mask_logits,
            mask_targets,
            labels,
            mask_losses,
            mask_errors,
            mask_classes,
            mask_pixels,
            mask_width,
            mask_stride_n,
            mask_stride_k,
            mask_stride_y,
            mask_stride_x,
            MASK_HAS_CLASSES,
            MASK_EVEN,
            NEEDS_MASK,
            BLOCK,
        )
    else:
        cross_entropy(
            n,
            edge_logits,
            edge_targets,
            labels,
            edge_losses,
            edge_errors,
            edge_classes,
            edge_pixels,
            edge_width,
            edge_stride_n,
            edge_stride_k,
            edge_stride_y,
            edge_stride_x,
            EDGE_HAS_CLASSES,
            EDGE_EVEN,
            NEEDS_EDGE,
            BLOCK,
        )


@triton.jit
def mask_edge_loss_backward_kernel(
    grad,
    errors,
    labels,
    out,
    grad_stride,
    classes,
    pixels,
    size,
    HAS_CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # A program owns BLOCK neighbouring numbers of one RoI's gradient [K, H, W], which is zero but
    # in the plane of the RoI's class. Bound by memory: the gradient is written once.
    n = tl.program_id(0).to(tl.int64)
    label, exists = class_of(labels, n, classes, HAS_CLASSES)
    i = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    p = i - label * pixels
    ours = (p >= 0) & (p < tl.where(exists, pixels, 0))
    error = tl.load(errors + n * pixels + p, mask=ours, other=0.0).to(tl.float32)
    scale = tl.load(grad + n * grad_stride).to(tl.float32) / pixels
    # where() keeps zeros zeros when the scale is not finite
    value = tl.where(ours, error * scale, 0.0)
    tl.store(out + n * size + i, value.to(out.dtype.element_ty), mask=i < size)


def mask_edge_loss(
    mask_logits: Tensor,
    mask_targets: Tensor,
    edge_logits: Tensor | None,
    edge_targets: Tensor | None,
    labels: Tensor | None,
    needs_mask: bool,
    needs_edge: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See :func:`dynamask.ops.mask_edge_loss`; a label out of range gives a loss of zero."""
    n = mask_logits.shape[0]
    planes = [_Plane(mask_logits, mask_targets, needs_mask)]
    if edge_logits is not None and edge_targets is not None:
        planes.append(_Plane(edge_logits, edge_targets, needs_edge))
    mask, edge = planes[0], planes[-1]
    block = _block(max(mask.pixels, edge.pixels))
    if n > 0:
        mask_edge_loss_kernel[(n, len(planes))](
            mask_logits if labels is None else labels.contiguous(),
            *mask.arguments,
            *edge.arguments,
            *mask.constants,
            *edge.constants,
            BLOCK=block,
            num_warps=_warps(block),
        )
    if len(planes) == 1:
        return mask.losses, mask.losses.new_empty(0), mask.errors, mask.errors.new_empty(0)
    return mask.losses, edge.losses, mask.errors, edge.errors


def mask_edge_loss_backward(
    grad: Tensor, error: Tensor, labels: Tensor | None, num_classes: int
) -> Tensor:
    """The gradient of logits [N, H, W], num_classes being 0, or [N, num_classes, H, W]."""
    n, height, width = error.shape
    classes = [num_classes] if num_classes > 0 else []
    out = error.new_empty(n, *classes, height, width)
    if out.numel() == 0:
        return out
    size = out[0].numel()
    block = _block(size)
    mask_edge_loss_backward_kernel[(n, triton.cdiv(size, block))](
        grad,
        error.contiguous(),
        error if labels is None else labels.contiguous(),
        out,
        grad.stride(0),
        max(1, num_classes),
        height * width,
        size,
        HAS_CLASSES=num_classes > 1,
        BLOCK=block,
        num_warps=_warps(block),
    )
    return out


class _Plane:
    """What a kernel is told about the logits of masks or of edges [N, H, W] or [N, K, H, W]."""

    def __init__(self, logits: Tensor, targets: Tensor, needs_error: bool) -> None:
        n, height, width = logits.shape[0], *logits.shape[-2:]
        self.pixels = height * width
        self.losses = logits.new_empty(n, dtype=torch.float32)
        self.errors = logits.new_empty((n, height, width) if needs_error else 0)
        classes = logits.shape[1] if logits.dim() == 4 else 1
        targets = targets.contiguous()
        targets = targets.view(torch.uint8) if targets.dtype == torch.bool else targets
        stride_y, stride_x = logits.stride()[-2:]
        stride_k = logits.stride(1) if logits.dim() == 4 else 0
        tensors = (logits, targets, self.losses, self.errors)
        strides = (logits.stride(0), stride_k, stride_y, stride_x)
        self.arguments = (*tensors, classes, self.pixels, width, *strides)
        is_even = stride_y == width * stride_x or height == 1
        self.constants = (classes > 1, is_even, needs_error)


def _block(numbers: int) -> int:
    return min(MAX_BLOCK, triton.next_power_of_2(max(1, numbers)))


def _warps(block: int) -> int:
    return min(8, max(1, block // PIXELS_PER_WARP))
