"""One small call of every operator, for tests that go through all of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from dynamask import ops

LAST = torch.channels_last
SIZES = [14, 28]
kernels = torch.ops.dynamask


class Sample(NamedTuple):
    """A call of an operator: the public function, or the kernel where that is what tensors meet.

    Attributes:
        operator: Takes the arguments.
        make: The arguments for a number of RoIs, boxes or masks.
        static: Whether the shapes of the output follow from those of the arguments.
    """

    operator: Callable[..., Any]
    make: Callable[[int], tuple]
    static: bool = True

    def arguments(self, device: str | torch.device = "cpu", n: int = 3) -> tuple:
        """The same numbers for the same n, on every device."""
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(n)
            arguments = self.make(n)
        return tree_map_only(Tensor, lambda x: x.to(device), arguments)


def _rois(n: int) -> Tensor:
    """[n, 5] on two images of 64 x 64."""
    return torch.cat([torch.arange(n)[:, None] % 2, _boxes(n)], 1)


def _boxes(n: int) -> Tensor:
    corner = torch.rand(n, 2) * 40
    return torch.cat([corner, corner + 4 + torch.rand(n, 2) * 20], 1)


def _pyramid() -> list[Tensor]:
    return [torch.randn(2, 8, size, size).to(memory_format=LAST) for size in (16, 8, 4)]


def _deform(n: int) -> tuple:
    offset, mask = torch.randn(n, 18, 7, 6), torch.rand(n, 9, 7, 6)
    return torch.randn(n, 16, 7, 6).to(memory_format=LAST), offset, torch.randn(8, 16, 3, 3), mask


def _deform_forward(n: int) -> tuple:
    input, offset, weight, mask = _deform(n)
    return input, offset, weight, torch.randn(8), (1, 1), (1, 1), (1, 1), mask


def _deform_backward(n: int) -> tuple:
    numbers = ([1, 1], [1, 1], [1, 1])
    return torch.randn(n, 8, 7, 6), *_deform(n), *numbers, True, True, True, True, True


def _aggregation(n: int) -> tuple:
    weights = ops.FeatureAggregationWeights(
        *(torch.randn(16, 16, 1, 1), torch.randn(16), torch.randn(16, 16, 1, 1), torch.randn(16)),
        *(torch.randn(18, 32, 3, 3) / 18, torch.randn(18), torch.randn(16, 16, 3, 3)),
        *(torch.randn(18, 16, 1, 1) / 18, torch.randn(18), torch.randn(16, 16, 3, 3)),
    )
    level = torch.randn(2, 16, 16, 16).to(memory_format=LAST)
    return torch.randn(n, 16, 7, 7).to(memory_format=LAST), level, _rois(n), 0.25, weights


def _masks_of_sizes(n: int) -> tuple:
    state = torch.ones(n, dtype=torch.int64)  # what stands after the last mask has no meaning
    order, _, _, _, _, starts = ops.bucket_rois(state, 2, SIZES)
    features = [torch.randn(n, 16 >> k, s, s).to(memory_format=LAST) for k, s in enumerate(SIZES)]
    weights, biases = [torch.randn(5, 16), torch.randn(1, 8)], [torch.randn(5), torch.randn(1)]
    return features, weights, biases, torch.randint(0, 5, (n,)), state, order, starts


def _scored(n: int) -> tuple:
    return _boxes(n), torch.rand(n)


def _pasted(n: int) -> tuple:
    return *ops.RaggedMasks.of(torch.rand(n, 14, 14)), _boxes(n), 64, 64, 0.5, "detectron2"


def _outlines(n: int) -> tuple:
    index = torch.randint(0, 2, (n,))
    outlines = ops.Polygons.of([[[1, 1, 50, 3, 30, 60]], [[9, 9, 40, 9, 40, 40, 9, 40]]])
    return outlines, _boxes(n), index, SIZES


def _run_lengths(n: int) -> tuple:
    text = torch.tensor([*b"04", *b"112"], dtype=torch.uint8)  # of images of 2 x 2
    sizes, index = torch.full((2, 2), 2), torch.randint(0, 2, (n,))
    return text, torch.tensor([0, 2, 5]), sizes, _boxes(n) / 40, index, SIZES


def _losses(n: int) -> tuple:
    """Of two mask sizes; the larger has logits of all classes."""
    shapes = [(n, 7, 7), (n, 5, 14, 14)]
    logits = [[torch.randn(shape) for shape in shapes] for _ in range(2)]
    targets = [[torch.rand(n, s, s).round().byte() for s in (7, 14)] for _ in range(2)]
    return logits[0], targets[0], logits[1], targets[1], torch.randint(0, 5, (n,))


def _loss(mask_logits, mask_targets, edge_logits, edge_targets, labels):
    return ops.mask_edge_loss(mask_logits, mask_targets, edge_logits, edge_targets, labels=labels)


def _errors(n: int) -> tuple:
    grads = [torch.rand(n, 2)[:, 0], torch.rand(())[None].expand(n)]
    errors = [torch.randn(n, 7, 7), torch.randn(n, 14, 14)]
    return grads, errors, torch.randint(0, 5, (n,)), [0, 5]


SAMPLES = {
    "batched_nms": Sample(
        ops.batched_nms, lambda n: (*_scored(n), torch.randint(0, 2, (n,)), 0.5), static=False
    ),
    "batched_nms_fixed": Sample(
        ops.batched_nms_fixed, lambda n: (*_scored(n), torch.randint(0, 2, (n,)), 0.5, 2)
    ),
    "bucket_rois": Sample(
        ops.bucket_rois, lambda n: (torch.randint(0, 4, (n,)), 4, (14, 28, 56, 112))
    ),
    "class_logits": Sample(
        ops.class_logits,
        lambda n: (
            torch.randn(n, 16, 7, 7).to(memory_format=LAST),
            *(torch.randn(5, 16), torch.randn(5), torch.randint(0, 5, (n,))),
        ),
    ),
    "deform_conv2d": Sample(ops.deform_conv2d, _deform_forward),
    "deform_conv2d_backward": Sample(kernels.deform_conv2d_backward, _deform_backward),
    "edge_targets": Sample(ops.edge_targets, lambda n: (torch.rand(n, 14, 14).round().byte(),)),
    "edge_targets_blocks": Sample(
        ops.block_targets, lambda n: ([torch.rand(n, s, s).round() for s in SIZES],)
    ),
    "encode_masks": Sample(kernels.encode_masks, _pasted, static=False),
    "feature_aggregation": Sample(ops.feature_aggregation, _aggregation),
    "grouped_mask_head": Sample(kernels.grouped_mask_head, _masks_of_sizes),
    "mask_edge_loss": Sample(_loss, _losses),
    "mask_edge_loss_backward": Sample(kernels.mask_edge_loss_backward, _errors),
    "mask_targets": Sample(
        ops.mask_targets,
        lambda n: (torch.rand(2, 64, 64).round().byte(), _boxes(n), torch.arange(n) % 2, SIZES),
    ),
    "mask_targets_polygons": Sample(ops.mask_targets, _outlines),
    "mask_targets_rle": Sample(kernels.mask_targets_rle, _run_lengths),
    "multiscale_roi_align": Sample(
        ops.multiscale_roi_align, lambda n: (_pyramid(), _rois(n), 7, [1 / 4, 1 / 8, 1 / 16], 2)
    ),
    "multiscale_roi_align_backward": Sample(
        kernels.multiscale_roi_align_backward,
        lambda n: (
            *(torch.randn(n, 8, 7, 7).to(memory_format=LAST), _rois(n), 2, [16, 16, 8, 8, 4, 4]),
            *([1 / 4, 1 / 8, 1 / 16], 2, False, "torchvision", 224.0, 4, True, True),
        ),
    ),
    "multiscale_roi_align_sizes": Sample(
        ops.multiscale_roi_align,
        lambda n: (_pyramid(), _rois(n), [7, 14], [1 / 4, 1 / 8, 1 / 16], 2),
    ),
    "nms": Sample(ops.nms, lambda n: (*_scored(n), 0.5), static=False),
    "paste_masks": Sample(ops.paste_masks, lambda n: (torch.rand(n, 14, 14), _boxes(n), (64, 64))),
    "paste_masks_packed": Sample(kernels.paste_masks_packed, _pasted, static=False),
    "roi_align": Sample(
        ops.roi_align,
        lambda n: (torch.randn(2, 8, 16, 16).to(memory_format=LAST), _rois(n), 7, 0.25, 2, True),
    ),
    "roi_align_backward": Sample(
        kernels.roi_align_backward,
        lambda n: (
            *(torch.randn(n, 8, 7, 7).to(memory_format=LAST), _rois(n), [2, 8, 16, 16]),
            *(0.25, 2, True, True, True),
        ),
    ),
    "winograd_conv2d": Sample(
        ops.winograd_conv2d,
        lambda n: (
            torch.randn(n, 8, 7, 7),
            *(ops.winograd_conv2d_weight(torch.randn(16, 8, 3, 3)), torch.randn(16)),
        ),
    ),
    "winograd_conv2d_weight": Sample(
        ops.winograd_conv2d_weight, lambda n: (torch.randn(8, n, 3, 3),)
    ),
}
