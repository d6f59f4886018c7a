import torch
from torch import Tensor

from dynamask.ops._check import (
    FLOAT_DTYPES,
    check_device,
    check_dims,
    check_float,
    check_int,
    check_range,
    check_size,
)


def mask_edge_loss(
    mask_logits: Tensor,
    mask_targets: Tensor,
    edge_logits: Tensor | None = None,
    edge_targets: Tensor | None = None,
    *,
    labels: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The binary cross entropy of each RoI's mask, and of its edge, averaged over its pixels.

    Equal to picking the channel of each RoI's class, then
    ``binary_cross_entropy_with_logits(x, t, reduction="none").mean((1, 2))``. Logits are read once:
    their gradient is made in the same pass if one is wanted. Nothing is asked of the device, so a
    loss can be built of this without waiting for it. Without edges this is the loss of Mask R-CNN.

    Args:
        mask_logits: Of each RoI's own class [N, S, S], or of all classes [N, K, S, S]; any floating
            dtype, any strides.
        mask_targets: What the masks shall be [N, S, S], in [0, 1], of bool, uint8 or a floating
            dtype.
        edge_logits: As ``mask_logits``, of the edges; also with another K.
        edge_targets: As ``mask_targets``, of the edges.
        labels: Class of each RoI [N], an integer in [0, K); needed where K is above 1. A single
            class serves all labels.
        weights: What to multiply both losses of each RoI by [N], of a floating dtype.

    Returns:
        The losses of the masks [N] and of the edges [N], or None without edges; in fp32 (fp64 for
        fp64). Gradients go to the logits, in their dtype and zero for other classes, and to the
        weights.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or device does not fit, one of ``edge_logits`` and ``edge_targets``
            is missing, or on the CPU a label is out of range.
    """
    op = "mask_edge_loss"
    classes = _check(op, "mask", mask_logits, mask_targets)
    if (edge_logits is None) != (edge_targets is None):
        raise ValueError(f"{op}: expected edge_logits and edge_targets, got one of them")
    if edge_logits is not None and edge_targets is not None:
        check_size(op, "RoIs in edge_logits", mask_logits.shape[0], edge_logits.shape[0])
        classes += _check(op, "edge", edge_logits, edge_targets)
    if classes:
        if labels is None:
            raise ValueError(f"{op}: expected labels for {min(classes)} classes, got None")
        check_dims(op, "labels", labels, "N")
        check_int(op, "labels", labels)
        check_size(op, "labels", mask_logits.shape[0], labels.shape[0])
        check_range(op, "labels", labels, min(classes))
    if weights is not None:
        check_dims(op, "weights", weights, "N")
        check_float(op, "weights", weights)
        check_size(op, "weights", mask_logits.shape[0], weights.shape[0])
    check_device(
        op,
        mask_logits.device,
        mask_targets=mask_targets,
        edge_logits=edge_logits,
        edge_targets=edge_targets,
        labels=labels,
        weights=weights,
    )
    needs = [
        logits is not None and logits.requires_grad and torch.is_grad_enabled()
        for logits in (mask_logits, edge_logits)
    ]
    mask, edge, _, _ = torch.ops.dynamask.mask_edge_loss(
        mask_logits, mask_targets, edge_logits, edge_targets, labels if classes else None, *needs
    )
    if weights is not None:
        mask, edge = mask * weights, edge * weights
    return mask, None if edge_logits is None else edge


def _check(op: str, name: str, logits: Tensor, targets: Tensor) -> list[int]:
    """How many classes there are to choose from, if any."""
    check_float(op, f"{name}_logits", logits)
    check_dims(op, f"{name}_targets", targets, "N S S")
    if targets.dtype not in (torch.bool, torch.uint8, *FLOAT_DTYPES):
        raise TypeError(
            f"{op}: expected {name}_targets of bool, uint8 or float, got {targets.dtype}"
        )
    n, h, w = targets.shape
    if logits.dim() == 4 and logits.shape[1] > 1:
        wanted = [n, logits.shape[1], h, w]
    else:
        wanted = [n, 1, h, w] if logits.dim() == 4 else [n, h, w]
    if list(logits.shape) != wanted:
        raise ValueError(f"{op}: expected {name}_logits {wanted}, got {list(logits.shape)}")
    return [logits.shape[1]] if logits.dim() == 4 and logits.shape[1] > 1 else []


def _loss_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


@torch.library.register_fake("dynamask::mask_edge_loss")
def _(mask_logits, mask_targets, edge_logits, edge_targets, labels, needs_mask, needs_edge):
    def outputs(logits, needs_error):
        loss = logits.new_empty(logits.shape[0], dtype=_loss_dtype(logits))
        error = [logits.shape[0], *logits.shape[-2:]] if needs_error else [0]
        return loss, logits.new_empty(error)

    mask, mask_error = outputs(mask_logits, needs_mask)
    if edge_logits is None:
        return mask, mask.new_empty(0), mask_error, mask_error.new_empty(0)
    edge, edge_error = outputs(edge_logits, needs_edge)
    return mask, edge, mask_error, edge_error


@torch.library.register_fake("dynamask::mask_edge_loss_backward")
def _(grad, error, labels, num_classes):
    n, h, w = error.shape
    return error.new_empty(n, h, w) if num_classes == 0 else error.new_empty(n, num_classes, h, w)


def _setup_context(ctx, inputs, output):
    mask_logits, _, edge_logits, _, labels, *_ = inputs
    _, _, mask_error, edge_error = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(mask_error, edge_error, labels)
    ctx.classes = [
        0 if logits is None or logits.dim() == 3 else logits.shape[1]
        for logits in (mask_logits, edge_logits)
    ]


def _backward(ctx, grad_mask, grad_edge, *_):
    mask_error, edge_error, labels = ctx.saved_tensors
    backward = torch.ops.dynamask.mask_edge_loss_backward
    of_mask = of_edge = None
    if grad_mask is not None and ctx.needs_input_grad[0]:
        of_mask = backward(grad_mask, mask_error, labels, ctx.classes[0])
    if grad_edge is not None and ctx.needs_input_grad[2]:
        of_edge = backward(grad_edge, edge_error, labels, ctx.classes[1])
    return of_mask, None, of_edge, None, None, None, None


torch.library.register_autograd("dynamask::mask_edge_loss", _backward, setup_context=_setup_context)
