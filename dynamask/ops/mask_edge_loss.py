from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    mask_logits: Tensor | Sequence[Tensor],
    mask_targets: Tensor | Sequence[Tensor],
    edge_logits: Tensor | Sequence[Tensor] | None = None,
    edge_targets: Tensor | Sequence[Tensor] | None = None,
    *,
    labels: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The binary cross entropy of each RoI's mask, and of its edge, averaged over its pixels.

    Equal to picking the channel of each RoI's class, then
    ``binary_cross_entropy_with_logits(x, t, reduction="none").mean((1, 2))``. Logits are read once:
    their gradient is made in the same pass if one is wanted. Nothing is asked of the device, so a
    loss can be built of this without waiting for it. Without edges this is the loss of Mask R-CNN;
    with a list of M mask sizes it is all losses of all sizes in one call.

    Args:
        mask_logits: Of each RoI's own class [N, S, S], or of all classes [N, K, S, S]; any floating
            dtype, any strides. Or a list of those, one for each mask size.
        mask_targets: What the masks shall be [N, S, S], in [0, 1], of bool, uint8 or a floating
            dtype; a list for a list.
        edge_logits: As ``mask_logits``, of the edges; also with another K.
        edge_targets: As ``mask_targets``, of the edges.
        labels: Class of each RoI [N], an integer in [0, K); needed where K is above 1. A single
            class serves all labels.
        weights: What to multiply all losses of each RoI by [N], of a floating dtype.

    Returns:
        The losses of the masks [N] and of the edges [N], or None without edges; [N, M] for lists;
        in fp32 (fp64 for fp64). Gradients go to the logits, in their dtype and zero for other
        classes, and to the weights.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or device does not fit, one of ``edge_logits`` and ``edge_targets``
            is missing, or on the CPU a label is out of range.
    """
    op = "mask_edge_loss"
    if (edge_logits is None) != (edge_targets is None):
        raise ValueError(f"{op}: expected edge_logits and edge_targets, got one of them")
    is_list = not isinstance(mask_logits, Tensor)
    masks, mask_answers = _as_list(mask_logits), _as_list(mask_targets)
    edges, edge_answers = _as_list(edge_logits), _as_list(edge_targets)
    if not masks:
        raise ValueError(f"{op}: expected mask_logits of a mask size at least, got none")
    classes = _check(op, "mask", masks, mask_answers, masks[0])
    classes += _check(op, "edge", edges, edge_answers, masks[0])
    if classes:
        if labels is None:
            raise ValueError(f"{op}: expected labels for {min(classes)} classes, got None")
        check_dims(op, "labels", labels, "N")
        check_int(op, "labels", labels)
        check_size(op, "labels", masks[0].shape[0], labels.shape[0])
        check_range(op, "labels", labels, min(classes))
    if weights is not None:
        check_dims(op, "weights", weights, "N")
        check_float(op, "weights", weights)
        check_size(op, "weights", masks[0].shape[0], weights.shape[0])
    check_device(op, masks[0].device, labels=labels, weights=weights)
    of_masks, of_edges = _losses(
        masks, mask_answers, edges, edge_answers, labels if classes else None
    )
    if weights is not None:
        of_masks, of_edges = of_masks * weights[:, None], of_edges * weights[:, None]
    if is_list:
        return of_masks, None if edge_logits is None else of_edges
    return of_masks[:, 0], None if edge_logits is None else of_edges[:, 0]


def _losses(masks, mask_answers, edges, edge_answers, labels) -> tuple[Tensor, Tensor]:
    """The losses of masks and edges [N, M], by the short way where that is open.

    What torch registers for lists of tensors takes as long as the kernel does for small masks.
    """
    needs = [
        torch.is_grad_enabled() and any(x.requires_grad for x in logits)
        for logits in (masks, edges)
    ]
    if any(needs) and not torch.compiler.is_compiling():
        return _Losses.apply(
            len(masks), needs, labels, *masks, *edges, *mask_answers, *edge_answers
        )
    call = torch.ops.dynamask.mask_edge_loss
    return call(masks, mask_answers, edges, edge_answers, labels, *needs)[:2]


def _as_list(tensors: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
    if tensors is None:
        return []
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _check(
    op: str, name: str, all_logits: list[Tensor], all_targets: list[Tensor], like: Tensor
) -> list[int]:
    """How many classes there are to choose from, if any."""
    check_size(op, f"tensors in {name}_targets", len(all_logits), len(all_targets))
    classes = []
    for logits, targets in zip(all_logits, all_targets):
        check_float(op, f"{name}_logits", logits)
        check_device(op, like.device, **{f"{name}_logits": logits, f"{name}_targets": targets})
        check_size(op, f"RoIs in {name}_logits", like.shape[0], logits.shape[0])
        if _loss_dtype(logits) != _loss_dtype(all_logits[0]):
            raise TypeError(
                f"{op}: expected {name}_logits of fp64 all or none, got {logits.dtype} "
                f"and {all_logits[0].dtype}"
            )
        check_dims(op, f"{name}_targets", targets, "N S S")
        if targets.dtype not in (torch.bool, torch.uint8, *FLOAT_DTYPES):
            raise TypeError(
                f"{op}: expected {name}_targets of bool, uint8 or float, got {targets.dtype}"
            )
        n, h, w = targets.shape
        if logits.dim() == 4 and logits.shape[1] > 1:
            wanted = [n, logits.shape[1], h, w]
            classes.append(logits.shape[1])
        else:
            wanted = [n, 1, h, w] if logits.dim() == 4 else [n, h, w]
        if list(logits.shape) != wanted:
            raise ValueError(f"{op}: expected {name}_logits {wanted}, got {list(logits.shape)}")
    return classes


def _loss_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


@torch.library.register_fake("dynamask::mask_edge_loss")
def _(mask_logits, mask_targets, edge_logits, edge_targets, labels, needs_mask, needs_edge):
    def losses(logits, like):
        return like.new_empty(like.shape[0], len(logits), dtype=_loss_dtype(like))

    def errors(logits, needed):
        return [x.new_empty(x.shape[0], *x.shape[-2:]) for x in logits] if needed else []

    return (
        losses(mask_logits, mask_logits[0]),
        losses(edge_logits, (edge_logits or mask_logits)[0]),
        errors(mask_logits, needs_mask),
        errors(edge_logits, needs_edge),
    )


@torch.library.register_fake("dynamask::mask_edge_loss_backward")
def _(grads, errors, labels, num_classes):
    return [
        error.new_empty(error.shape[0], *([k] if k > 0 else []), *error.shape[1:])
        for error, k in zip(errors, num_classes)
    ]


class _Saved(NamedTuple):
    """What the gradient needs to know of a call beside its errors."""

    masks: int
    has_mask_errors: bool
    has_edge_errors: bool
    classes: list[int]

    @staticmethod
    def of(mask_logits, edge_logits, needs) -> "_Saved":
        classes = [0 if x.dim() == 3 else x.shape[1] for x in (*mask_logits, *edge_logits)]
        return _Saved(len(mask_logits), needs[0], needs[1], classes)

    def gradients(self, needs, grad_mask, grad_edge, labels, errors) -> list[Tensor | None]:
        """Of all logits for those of the losses [N, M]; errors are only those that there are."""
        edges = len(self.classes) - self.masks
        errors = [
            *([] if self.has_mask_errors else [None] * self.masks),
            *errors,
            *([] if self.has_edge_errors else [None] * edges),
        ]
        grads = [
            *([None] * self.masks if grad_mask is None else grad_mask.unbind(1)),
            *([None] * edges if grad_edge is None else grad_edge.unbind(1)),
        ]
        wanted = [k for k, need in enumerate(needs) if need and grads[k] is not None]
        out: list[Tensor | None] = [None] * len(needs)
        if wanted:
            picked = ([of_all[k] for k in wanted] for of_all in (grads, errors, self.classes))
            of_grads, of_errors, classes = picked
            made = torch.ops.dynamask.mask_edge_loss_backward(of_grads, of_errors, labels, classes)
            for k, gradient in zip(wanted, made):
                out[k] = gradient
        return out


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, count, needs, labels, *tensors):
        half = len(tensors) // 2
        masks, edges = list(tensors[:count]), list(tensors[count:half])
        answers = list(tensors[half:])
        of_masks, of_edges, mask_errors, edge_errors = torch.ops.dynamask.mask_edge_loss(
            masks, answers[:count], edges, answers[count:], labels, *needs
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(labels, *mask_errors, *edge_errors)
        ctx.saved = _Saved.of(masks, edges, needs)
        return of_masks, of_edges

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_mask, grad_edge):
        labels, *errors = ctx.saved_tensors
        logits = len(ctx.saved.classes)
        needs = ctx.needs_input_grad[3 : 3 + logits]
        out = ctx.saved.gradients(needs, grad_mask, grad_edge, labels, errors)
        return None, None, None, *out, *[None] * logits


def _setup_context(ctx, inputs, output):
    mask_logits, _, edge_logits, _, labels, *needs = inputs
    _, _, mask_errors, edge_errors = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(labels, *mask_errors, *edge_errors)
    ctx.saved = _Saved.of(mask_logits, edge_logits, needs)


def _backward(ctx, grad_mask, grad_edge, *_):
    labels, *errors = ctx.saved_tensors
    needs = [*ctx.needs_input_grad[0], *ctx.needs_input_grad[2]]
    out = ctx.saved.gradients(needs, grad_mask, grad_edge, labels, errors)
    masks, edges = ctx.saved.masks, len(needs) - ctx.saved.masks
    return out[:masks], [None] * masks, out[masks:], [None] * edges, None, None, None


torch.library.register_autograd("dynamask::mask_edge_loss", _backward, setup_context=_setup_context)
