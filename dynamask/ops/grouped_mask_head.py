from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dynamask.ops._check import (
    check_device,
    check_dims,
    check_float,
    check_int,
    check_range,
    check_size,
)
from dynamask.ops.bucket_rois import Buckets, bucket_rois
from dynamask.ops.class_logits import class_logits
from dynamask.ops.feature_aggregation import FeatureAggregationWeights, feature_aggregation
from dynamask.ops.ragged_masks import RaggedMasks

OP = "grouped_mask_head"


def grouped_mask_head(
    x: Tensor,
    levels: Sequence[Tensor | Callable[[], Tensor]],
    rois: Tensor,
    labels: Tensor,
    state: Tensor,
    spatial_scales: Sequence[float],
    stages: Sequence[FeatureAggregationWeights],
    exits: Sequence[tuple[Tensor, Tensor | None]],
) -> RaggedMasks:
    """Mask logits of each RoI at the mask size it needs, at the cost of that size.

    RoIs are sorted by size, the largest first, so those that a stage works on are a prefix: how
    long it is only the kernels read, and nothing waits for a GPU. At its own size each RoI leaves
    through a 1x1 convolution of its own class. Equal to running all stages for all RoIs and
    picking the masks that ``state`` names.

    Args:
        x: RoI features [N, C, S, S], fp32, fp64, fp16 or bf16; channels_last is the fast layout.
        levels: The pyramid level that each stage crops, as :func:`feature_aggregation` takes it, or
            a function that makes it. It is not called where it is known without waiting for a
            device that no RoI gets there: on the CPU.
        rois: [N, 5] of (image, x1, y1, x2, y2), corners in pixels of the image.
        labels: Class of each RoI [N], an integer.
        state: Number of the mask size of each RoI [N], an integer: size k is S * 2^k.
        spatial_scales: Pixels of each level per pixel of the image.
        stages: The convolutions of each stage: see :func:`feature_aggregation`.
        exits: Weight [K, C_k] and bias [K], or None, of each size, the first for ``x``: one more
            than stages. A weight of one row serves every label.

    Returns:
        Ragged masks of the dtype of ``x``, in the order of the RoIs. On a GPU there is room for N
        masks of the largest size in ``values``, as there is for features of every size on the way;
        what stands after the last mask has no meaning. A label out of range gives zeros there, and
        a state out of range a mask of no size.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if shapes or devices do not fit together, or on the CPU a label, a state or the
            image of a box is out of range.
    """
    _check(x, levels, rois, labels, state, spatial_scales, stages, exits)
    sizes = [x.shape[2] << k for k in range(len(exits))]
    buckets = bucket_rois(state, len(exits), sizes)
    x, rois = x[buckets.order], rois[buckets.order]
    features = [x]
    for k, (level, scale, weights) in enumerate(zip(levels, spatial_scales, stages)):
        last = len(stages) - k
        count = buckets.offsets[last : last + 1]  # RoIs of a size above k
        if _known(count) == 0:
            break
        level = level if isinstance(level, Tensor) else level()
        features.append(feature_aggregation(features[-1], level, rois, scale, weights, count=count))
    values = _exits(features, exits, labels, state, buckets)
    return RaggedMasks(values[: _known(buckets.mask_offsets[-1:])], buckets.mask_sizes)


def _known(number: Tensor) -> int | None:
    """A number that can be read without waiting for a device."""
    if torch.compiler.is_compiling() or number.device.type != "cpu":
        return None
    return int(number)


def _exits(
    features: list[Tensor],
    exits: Sequence[tuple[Tensor, Tensor | None]],
    labels: Tensor,
    state: Tensor,
    buckets: Buckets,
) -> Tensor:
    used = exits[: len(features)]
    weights = [weight.flatten(1) for weight, _ in used]
    biases = [w.new_zeros(len(w)) if bias is None else bias for w, (_, bias) in zip(weights, used)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*features, *weights, *biases)):
        return _differentiable_exits(features, weights, biases, labels, state, buckets)
    return torch.ops.dynamask.grouped_mask_head(
        features, weights, biases, labels, state, buckets.order, buckets.mask_offsets
    )


def _differentiable_exits(features, weights, biases, labels, state, buckets) -> Tensor:
    """The same, of all RoIs at all sizes, made of operators that have gradients."""
    largest = features[-1][0:1, 0].numel()
    rows = torch.arange(len(state), device=state.device)
    masks = []
    for f, weight, bias in zip(features, weights, biases):
        own = labels if len(weight) > 1 else torch.zeros_like(labels)
        logits = class_logits(f, weight.to(f.dtype), bias.to(f.dtype), own[buckets.order])
        logits = logits.flatten(1)[buckets.inverse]
        masks.append(torch.nn.functional.pad(logits, (0, largest - logits.shape[1])))
    exit = state.long().clamp(0, len(masks) - 1)
    picked = torch.stack(masks)[exit, rows]  # [N, the largest size squared]
    sizes = buckets.mask_sizes[:, None]
    pixels = torch.arange(largest, device=state.device)
    places = buckets.mask_offsets[:-1, None] + pixels
    nowhere = picked.numel()  # one past the end
    places = torch.where(pixels < sizes * sizes, places, nowhere)
    values = picked.new_zeros(nowhere + 1)
    return values.index_put((places.flatten(),), picked.flatten())[:-1]


def _check(x, levels, rois, labels, state, spatial_scales, stages, exits) -> None:
    check_dims(OP, "x", x, "N C S S")
    check_float(OP, "x", x)
    check_size(OP, "width of x", x.shape[2], x.shape[3])
    check_dims(OP, "rois", rois, "N 5")
    check_size(OP, "rois", x.shape[0], rois.shape[0])
    check_dims(OP, "state", state, "N")
    check_int(OP, "state", state)
    check_size(OP, "states", x.shape[0], state.shape[0])
    check_dims(OP, "labels", labels, "N")
    check_int(OP, "labels", labels)
    check_size(OP, "labels", x.shape[0], labels.shape[0])
    check_device(OP, x.device, rois=rois, labels=labels, state=state)
    for name, given in {"levels": levels, "spatial_scales": spatial_scales}.items():
        check_size(OP, name, len(stages), len(given))
    check_size(OP, "exits", len(stages) + 1, len(exits))
    check_range(OP, "state", state, len(exits))
    channels = x.shape[1]
    for k, (weight, bias) in enumerate(exits):
        if k > 0:
            channels = FeatureAggregationWeights(*stages[k - 1]).attend_weight.shape[0]
        if weight.dim() != 4 or weight.shape[2:] != (1, 1):
            check_dims(OP, f"weight of exit {k}", weight, "K C")
        check_float(OP, f"weight of exit {k}", weight)
        check_size(OP, f"channels in the weight of exit {k}", channels, weight.shape[1])
        check_device(OP, x.device, **{f"weight of exit {k}": weight, f"bias of exit {k}": bias})
        if bias is not None:
            check_dims(OP, f"bias of exit {k}", bias, "K")
            check_size(OP, f"values in the bias of exit {k}", weight.shape[0], bias.shape[0])
        if weight.shape[0] != 1:
            check_range(OP, "labels", labels, weight.shape[0])


@torch.library.register_fake("dynamask::grouped_mask_head")
def _(features, weights, biases, labels, state, order, mask_offsets):
    rois, _, height, width = features[-1].shape
    return features[0].new_empty(rois * height * width)


def _no_gradient(ctx, grad):
    raise NotImplementedError(
        "grouped_mask_head: the kernel has no gradient; dynamask.ops.grouped_mask_head does"
    )


torch.library.register_autograd("dynamask::grouped_mask_head", _no_gradient)
