from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamask._library import composed_on_cuda
from dynamask.ops._check import check_device, check_dims, check_float, check_range, check_size
from dynamask.ops._rois import as_rois, is_channels_last, new_empty
from dynamask.ops.deform_conv2d import deform_conv2d
from dynamask.ops.roi_align import roi_align


class FeatureAggregationWeights(NamedTuple):
    """The convolutions of :func:`feature_aggregation`, C -> C' channels, G groups of offsets.

    Attributes:
        reduce_weight: [C', C, 1, 1].
        reduce_bias: [C'].
        project_weight: [C', C', 1, 1].
        project_bias: [C'].
        offset1_weight: [18 G, 2 C', 3, 3]; for each group and tap (row by row) first y, then x.
        offset1_bias: [18 G].
        align_weight: [C', C', 3, 3].
        offset2_weight: [18 G, C', 1, 1].
        offset2_bias: [18 G].
        attend_weight: [C', C', 3, 3].
    """

    reduce_weight: Tensor
    reduce_bias: Tensor
    project_weight: Tensor
    project_bias: Tensor
    offset1_weight: Tensor
    offset1_bias: Tensor
    align_weight: Tensor
    offset2_weight: Tensor
    offset2_bias: Tensor
    attend_weight: Tensor


def feature_aggregation(
    x: Tensor,
    level: Tensor,
    rois: Tensor,
    spatial_scale: float,
    weights: FeatureAggregationWeights,
    *,
    count: Tensor | None = None,
) -> Tensor:
    """Doubles RoI features and aligns them with the same region of a finer pyramid level.

    The feature aggregation module of DynaMask (Li et al., 2023, https://arxiv.org/abs/2303.07868,
    Figure 3), in one pass over each RoI::

        x = up2(relu(reduce(x)))                       bilinear, align_corners=False
        p = relu(project(crop(level)))                 roi_align, one sample per cell, aligned
        a = relu(deform_conv2d(x, offset1([x, p]), align, padding=1))
        f = a + p
        y = relu(deform_conv2d(f, offset2(f), attend, padding=1))

    Without gradients nothing between x and y is stored but what is being worked on. Where a
    gradient is needed it is the same, operator by operator.

    Args:
        x: RoI features [N, C, H, W], fp32, fp64, fp16 or bf16. Any strides; channels_last is the
            fast layout and then the output is channels_last too.
        level: A pyramid level with as many channels as come out [B, C', h, w].
        rois: [N, 5] of (image, x1, y1, x2, y2), corners in pixels of the image.
        spatial_scale: Pixels of the level per pixel of the image, such as 1/8.
        weights: The convolutions.
        count: How many RoIs to compute, from the first: one int64 on the device of ``x``, which
            only the kernel reads. None is all of them.

    Returns:
        [N, C', 2 H, 2 W] of the dtype of ``x``. Geometry and sums are in fp32 (fp64 for fp64). The
        crop of a box with a coordinate that is not finite is zero. What stands in the rows from
        ``count`` on has no meaning.

    Raises:
        TypeError: if a tensor is not of a floating dtype, or ``count`` not int64.
        ValueError: if shapes or devices do not fit together, or on the CPU a box is on an image out
            of range or ``count`` not in [0, N].
    """
    weights = FeatureAggregationWeights(*weights)
    _check(x, level, rois, weights)
    rois = as_rois("feature_aggregation", rois, level)
    if count is not None:
        count = _check_count(count, x)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, level, *weights)):
        return _composed(x, level, rois, spatial_scale, weights)
    return torch.ops.dynamask.feature_aggregation(x, level, rois, spatial_scale, count, *weights)


def _composed(x, level, rois, spatial_scale, weights) -> Tensor:
    """The same, of all RoIs, made of operators that have gradients."""
    w = FeatureAggregationWeights(*(t.to(x.dtype) for t in weights))
    x = F.relu_(F.conv2d(x, w.reduce_weight, w.reduce_bias))
    x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    crop = roi_align(level.to(x.dtype), rois, x.shape[2:], spatial_scale, 1, aligned=True)
    p = F.relu_(F.conv2d(crop, w.project_weight, w.project_bias))
    offset = F.conv2d(torch.cat([x, p], 1), w.offset1_weight, w.offset1_bias, padding=1)
    fused = F.relu(deform_conv2d(x, offset, w.align_weight, padding=1)) + p
    offset = F.conv2d(fused, w.offset2_weight, w.offset2_bias)
    return F.relu(deform_conv2d(fused, offset, w.attend_weight, padding=1))


@composed_on_cuda("feature_aggregation")
def _on_cuda(x, level, rois, spatial_scale, count, *weights) -> Tensor:
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    with torch.autocast(x.device.type, enabled=False):  # a kernel computes in the dtype of x
        out = _composed(x, level, rois, spatial_scale, FeatureAggregationWeights(*weights))
    return out.contiguous(memory_format=layout)


def _check(x: Tensor, level: Tensor, rois: Tensor, weights: FeatureAggregationWeights) -> None:
    op = "feature_aggregation"
    check_dims(op, "x", x, "N C H W")
    check_dims(op, "level", level, "B C' h w")
    check_dims(op, "rois", rois, "N 5")
    check_size(op, "rois", x.shape[0], rois.shape[0])
    given = {"x": x, "level": level, "rois": rois, **weights._asdict()}
    for name, tensor in given.items():
        check_float(op, name, tensor)
    check_device(op, x.device, **given)
    c, offsets = level.shape[1], weights.offset1_bias.numel()
    if offsets == 0 or offsets % 18 or c % (offsets // 18):
        raise ValueError(
            f"{op}: expected 18 offsets for each of G groups that divide {c} channels, "
            f"got {offsets} offsets"
        )
    shapes = (
        *((c, x.shape[1], 1, 1), (c,)),
        *((c, c, 1, 1), (c,)),
        *((offsets, 2 * c, 3, 3), (offsets,), (c, c, 3, 3)),
        *((offsets, c, 1, 1), (offsets,), (c, c, 3, 3)),
    )
    for (name, weight), shape in zip(weights._asdict().items(), shapes):
        if tuple(weight.shape) != shape:
            raise ValueError(f"{op}: expected {name} {list(shape)}, got {list(weight.shape)}")


def _check_count(count: Tensor, x: Tensor) -> Tensor:
    op = "feature_aggregation"
    if count.dtype != torch.int64:
        raise TypeError(f"{op}: expected count of int64, got {count.dtype}")
    check_device(op, x.device, count=count)
    check_size(op, "values in count", 1, count.numel())
    count = count.reshape(1)
    check_range(op, "count", count, x.shape[0] + 1)
    return count


@torch.library.register_fake("dynamask::feature_aggregation")
def _(x, level, rois, spatial_scale, count, *weights):
    size = [x.shape[0], weights[0].shape[0], 2 * x.shape[2], 2 * x.shape[3]]
    return new_empty(x, size, is_channels_last(x))


def _no_gradient(ctx, grad):
    raise NotImplementedError(
        "feature_aggregation: the kernel has no gradient; dynamask.ops.feature_aggregation does"
    )


torch.library.register_autograd("dynamask::feature_aggregation", _no_gradient)
