import torch
import torch.nn.functional as F
from torch import Tensor

from dynamask.ops._check import (
    check_device,
    check_dims,
    check_float,
    check_int,
    check_range,
    check_size,
)
from dynamask.ops._rois import is_channels_last


def class_logits(features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """The 1x1 convolution of each RoI's own class: one weight row per RoI instead of all of them.

    Equal to ``conv2d(features, weight[:, :, None, None], bias)`` followed by picking channel
    ``labels[n]`` of RoI n, at 1 / K of its cost.

    Args:
        features: RoI features [N, C, H, W]; any strides, channels_last is as fast as NCHW.
        weight: One row per class [K, C]; the [K, C, 1, 1] of a convolution is taken too.
        bias: One number per class [K], or None.
        labels: Class of each RoI [N], an integer in [0, K).

    Returns:
        Logits [N, H, W] of the features' dtype, summed in fp32 (fp64 for fp64).

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or device does not fit, or on the CPU a label is out of range.
    """
    op = "class_logits"
    if weight.dim() == 4 and weight.shape[2:] == (1, 1):
        weight = weight.flatten(1)
    check_dims(op, "features", features, "N C H W")
    check_float(op, "features", features)
    check_dims(op, "weight", weight, "K C")
    check_size(op, "channels in weight", features.shape[1], weight.shape[1])
    check_dims(op, "labels", labels, "N")
    check_int(op, "labels", labels)
    check_size(op, "labels", features.shape[0], labels.shape[0])
    if bias is not None:
        check_dims(op, "bias", bias, "K")
        check_size(op, "values in bias", weight.shape[0], bias.shape[0])
    check_device(op, features.device, weight=weight, bias=bias, labels=labels)
    check_range(op, "labels", labels, weight.shape[0])
    return torch.ops.dynamask.class_logits(features, weight, bias, labels)


@torch.library.register_fake("dynamask::class_logits")
def _(features, weight, bias, labels):
    n, _, h, w = features.shape
    return features.new_empty(n, h, w)


def _setup_context(ctx, inputs, output):
    features, weight, bias, labels = inputs
    ctx.save_for_backward(features, weight, labels)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx, grad):
    features, weight, labels = ctx.saved_tensors
    classes = weight.shape[0]
    labels = labels.long()
    # labels out of range mean one row more, which is zero and thrown away
    place = torch.where((labels >= 0) & (labels < classes), labels, classes)
    grad_features = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        rows = F.pad(weight, (0, 0, 0, 1)).index_select(0, place).to(grad.dtype)  # [N, C]
        if is_channels_last(features):
            grad_features = (grad.unsqueeze(3) * rows[:, None, None]).permute(0, 3, 1, 2)
        else:
            grad_features = grad.unsqueeze(1) * rows[:, :, None, None]
    if ctx.needs_input_grad[1]:
        per_roi = torch.einsum("nhw,nchw->nc", grad, features)
        grad_weight = _sum_by_class(per_roi, place, classes).to(weight.dtype)
    if ctx.bias_dtype is not None and ctx.needs_input_grad[2]:
        grad_bias = _sum_by_class(grad.sum((1, 2)), place, classes).to(ctx.bias_dtype)
    return grad_features, grad_weight, grad_bias, None


def _sum_by_class(values: Tensor, place: Tensor, classes: int) -> Tensor:
    """[N, ...] -> [classes, ...], in fp32 (fp64 for fp64)."""
    values = values if values.dtype == torch.float64 else values.float()
    return values.new_zeros(classes + 1, *values.shape[1:]).index_add(0, place, values)[:classes]


torch.library.register_autograd("dynamask::class_logits", _backward, setup_context=_setup_context)
