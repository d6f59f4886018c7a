from itertools import pairwise
from typing import overload

import torch
from torch import Tensor, nn

from dynamask.ops._check import check_device, check_dims, check_float, check_size
from dynamask.ops._rois import as_pair, as_rois, is_channels_last, new_empty

LEVEL_RULES = ("torchvision", "detectron2")
MOST_SIZES = 8


@overload
def multiscale_roi_align(
    features: list[Tensor],
    boxes: Tensor | list[Tensor],
    output_size: int | tuple[int, int],
    scales: list[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    level_rule: str = ...,
    canonical_scale: float = ...,
    canonical_level: int = ...,
) -> Tensor: ...
@overload
def multiscale_roi_align(
    features: list[Tensor],
    boxes: Tensor | list[Tensor],
    output_size: list[int] | list[tuple[int, int]],
    scales: list[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    level_rule: str = ...,
    canonical_scale: float = ...,
    canonical_level: int = ...,
) -> list[Tensor]: ...
def multiscale_roi_align(
    features: list[Tensor],
    boxes: Tensor | list[Tensor],
    output_size: int | tuple[int, int] | list[int] | list[tuple[int, int]],
    scales: list[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    level_rule: str = "torchvision",
    canonical_scale: float = 224.0,
    canonical_level: int = 4,
) -> Tensor | list[Tensor]:
    """:func:`roi_align` over a feature pyramid: each box is cut out of the map of its size.

    A box of side s = sqrt(width * height) belongs on level floor(canonical_level +
    log2(s / canonical_scale)), clamped to the levels there are (Feature Pyramid Networks,
    https://arxiv.org/abs/1612.03144, equation 1). The whole pyramid is one call, without a list of
    boxes per level.

    Args:
        features: Maps [N, C, H_k, W_k] from fine to coarse, all of one dtype. Any strides;
            channels_last is the fast layout, and the output is channels_last if the first map is.
        boxes: [R, 5] of (image, x1, y1, x2, y2), or one [L, 4] of (x1, y1, x2, y2) for each image;
            corners in pixels of the image, of any floating dtype.
        output_size: (height, width) of the output, or one number for both; or a list of up to 8
            such sizes, pooled together: on a GPU in one launch.
        scales: Pixels of each map per pixel of the image, each half of the one before.
        sampling_ratio: Samples per bin and axis; 0 or less for as many as the bin has pixels.
        aligned: Whether boxes are moved by -1/2 pixel; see :func:`roi_align`.
        level_rule: How a side that lies on the border of two levels is rounded: ``"torchvision"``
            adds 1e-6 to the logarithm, ``"detectron2"`` adds 1e-8 inside of it.
        canonical_scale: Side of the boxes that belong on ``canonical_level``.
        canonical_level: The level with stride 2^canonical_level.

    Returns:
        [R, C, height, width] of the features' dtype; for a list of sizes a list, each output the
        same bits as if it had been asked for alone. A box with a coordinate that is not finite, or
        of negative area, gives zeros and gets no gradient back. Gradients go to ``features`` only,
        and are the same bits for any number of threads.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape, a device or a scale does not fit, or on the CPU a box is on an image
            out of range.
    """
    op = "multiscale_roi_align"
    if len(features) == 0:
        raise ValueError(f"{op}: expected at least one feature map, got none")
    for k, feature in enumerate(features):
        check_dims(op, f"features[{k}]", feature, "N C H W")
        check_float(op, f"features[{k}]", feature)
        check_device(op, features[0].device, **{f"features[{k}]": feature})
        check_size(op, f"images in features[{k}]", features[0].shape[0], feature.shape[0])
        check_size(op, f"channels in features[{k}]", features[0].shape[1], feature.shape[1])
        if feature.dtype != features[0].dtype:
            raise TypeError(
                f"{op}: expected features[{k}] of {features[0].dtype}, got {feature.dtype}"
            )
    check_size(op, "scales", len(features), len(scales))
    if not scales[0] > 0 or any(abs(a - 2 * b) > 1e-6 * a for a, b in pairwise(scales)):
        raise ValueError(f"{op}: expected scales each half of the one before, got {scales}")
    if level_rule not in LEVEL_RULES:
        raise ValueError(f"{op}: expected level_rule one of {LEVEL_RULES}, got {level_rule!r}")
    if not canonical_scale > 0:
        raise ValueError(f"{op}: expected canonical_scale > 0, got {canonical_scale}")
    rois = as_rois(op, boxes, features[0])
    options = (scales, sampling_ratio, aligned, level_rule, canonical_scale, canonical_level)
    if not isinstance(output_size, list):
        size = as_pair(op, output_size)
        return torch.ops.dynamask.multiscale_roi_align(features, rois, size, *options)
    if len(output_size) > MOST_SIZES:
        raise ValueError(f"{op}: expected at most {MOST_SIZES} sizes, got {len(output_size)}")
    sizes = [length for size in output_size for length in as_pair(op, size)]
    return torch.ops.dynamask.multiscale_roi_align_sizes(features, rois, sizes, *options)


def _scale(map_height: int, image_height: int) -> float:
    """The power of two nearest to map_height / image_height.

    By comparisons alone, so that compiled code holds for a range of sizes and not for one.
    """
    if map_height < 1 or image_height < 1:
        raise ValueError(
            "MultiScaleRoIAlign: expected maps and images of a height >= 1, "
            f"got {map_height} and {image_height}"
        )
    scale = 1.0
    while 2 * (map_height / scale) ** 2 < image_height**2:
        scale /= 2
    while (map_height / scale) ** 2 > 2 * image_height**2:
        scale *= 2
    return scale


class MultiScaleRoIAlign(nn.Module):
    """:func:`multiscale_roi_align` on the maps of these names: torchvision's module, in one call.

    Scales are taken from the shapes of the images and of the maps, as powers of two.

    Args:
        featmap_names: Names of the maps to pool from, of those that forward() is given.
        output_size: (height, width) of the output, or one number for both.
        sampling_ratio: Samples per bin and axis; 0 or less for as many as the bin has pixels.
        canonical_scale: Side of the boxes that belong on ``canonical_level``.
        canonical_level: The level with stride 2^canonical_level.
        aligned: Whether boxes are moved by -1/2 pixel (detectron2); torchvision never does.
        level_rule: ``"torchvision"`` or ``"detectron2"``.
    """

    def __init__(
        self,
        featmap_names: list[str],
        output_size: int | tuple[int, int],
        sampling_ratio: int,
        *,
        canonical_scale: float = 224,
        canonical_level: int = 4,
        aligned: bool = False,
        level_rule: str = "torchvision",
    ):
        super().__init__()
        self.featmap_names = featmap_names
        height, width = as_pair("MultiScaleRoIAlign", output_size)
        self.output_size = (height, width)
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.aligned = aligned
        self.level_rule = level_rule

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Pools the boxes of each image.

        Args:
            x: Feature maps [N, C, H, W] by name, from fine to coarse.
            boxes: One [L, 4] of (x1, y1, x2, y2) for each image, in its pixels.
            image_shapes: (height, width) of each image, before padding to a batch.

        Returns:
            [sum of L, C, height, width], image by image.

        Raises:
            ValueError: as :func:`multiscale_roi_align`; if there are no images.
        """
        if not image_shapes:
            raise ValueError("MultiScaleRoIAlign: expected at least one image shape, got none")
        features = [feature for name, feature in x.items() if name in self.featmap_names]
        # under autocast layers may answer in different dtypes
        features = [feature.to(features[0].dtype) for feature in features]
        height = max(shape[0] for shape in image_shapes)
        scales = [_scale(feature.shape[2], height) for feature in features]
        return multiscale_roi_align(
            features,
            boxes,
            self.output_size,
            scales,
            self.sampling_ratio,
            self.aligned,
            level_rule=self.level_rule,
            canonical_scale=self.canonical_scale,
            canonical_level=self.canonical_level,
        )

    def extra_repr(self) -> str:
        return (
            f"featmap_names={self.featmap_names}, output_size={self.output_size}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


@torch.library.register_fake("dynamask::multiscale_roi_align")
def _(features, boxes, output_size, *options):
    size = [boxes.shape[0], features[0].shape[1], *output_size]
    return new_empty(features[0], size, is_channels_last(features[0]))


@torch.library.register_fake("dynamask::multiscale_roi_align_sizes")
def _(features, boxes, output_sizes, *options):
    n, c, rows = boxes.shape[0], features[0].shape[1], is_channels_last(features[0])
    heights_and_widths = zip(output_sizes[::2], output_sizes[1::2])
    return [new_empty(features[0], [n, c, h, w], rows) for h, w in heights_and_widths]


@torch.library.register_fake("dynamask::multiscale_roi_align_backward")
def _(grad, boxes, batch, sizes, scales, *options):
    heights_and_widths = zip(sizes[::2], sizes[1::2])
    return [
        new_empty(grad, [batch, grad.shape[1], h, w], options[-2]) for h, w in heights_and_widths
    ]


def _setup_context(ctx, inputs, output):
    features, boxes, output_size, *ctx.options = inputs
    ctx.save_for_backward(boxes)
    ctx.output_size, ctx.batch = output_size, features[0].shape[0]
    ctx.sizes = [size for feature in features for size in feature.shape[2:]]
    ctx.channels_last = is_channels_last(features[0])


def _backward(ctx, grad):
    (boxes,) = ctx.saved_tensors
    deterministic = torch.are_deterministic_algorithms_enabled()
    grad_features = torch.ops.dynamask.multiscale_roi_align_backward(
        grad, boxes, ctx.batch, ctx.sizes, *ctx.options, ctx.channels_last, deterministic
    )
    return grad_features, *[None] * 8


def _backward_of_sizes(ctx, grads):
    of_each = [_backward(ctx, grad)[0] for grad in grads]
    of_levels = [sum(level[1:], level[0]) for level in zip(*of_each)]
    return of_levels, *[None] * 8


# linear in the features, so the gradient of its gradient is the operator itself
def _setup_double(ctx, inputs, output):
    grad, boxes, _, _, *options, _, _ = inputs
    ctx.save_for_backward(boxes)
    ctx.output_size, ctx.options = grad.shape[2:], options


def _double_backward(ctx, grads):
    (boxes,) = ctx.saved_tensors
    grad_grad = torch.ops.dynamask.multiscale_roi_align(grads, boxes, ctx.output_size, *ctx.options)
    return grad_grad, *[None] * 11


torch.library.register_autograd(
    "dynamask::multiscale_roi_align", _backward, setup_context=_setup_context
)
torch.library.register_autograd(
    "dynamask::multiscale_roi_align_sizes", _backward_of_sizes, setup_context=_setup_context
)
torch.library.register_autograd(
    "dynamask::multiscale_roi_align_backward", _double_backward, setup_context=_setup_double
)
