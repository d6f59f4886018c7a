from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from dynamask.models.feature_aggregation import FeatureAggregation
from dynamask.models.instances import Instances
from dynamask.ops import RaggedMasks, class_logits, grouped_mask_head


@dataclass
class MaskContext:
    """What the mask branch reads of a batch.

    Attributes:
        features: P2 to P5 [B, C, H, W], channels_last.
        image_areas: Pixels of each image [B].
        projected: The pyramid level that each stage crops, by its number, once it was needed.
    """

    features: list[Tensor]
    image_areas: Tensor
    projected: dict[int, Tensor] = field(default_factory=dict)


class ClassLogits(nn.Module):
    """A 1x1 convolution that evaluates each RoI's own class alone; one class serves all labels."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, channels))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        # Kaiming by fan out as for COCO's 80 classes: by that of a few classes the first logits
        # would be so large that training begins by unlearning them.
        nn.init.normal_(self.weight, std=(2 / max(num_classes, 80)) ** 0.5)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        if self.weight.shape[0] == 1:
            labels = torch.zeros_like(labels)
        return class_logits(x, self.weight, self.bias, labels)

    def count_macs(self, x: Tensor, labels: Tensor) -> int:
        return x.numel()


class MaskExit(nn.Module):
    """Where masks of one size leave: mask logits, and edge logits for training."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.mask = ClassLogits(channels, num_classes)
        self.edge = ClassLogits(channels, num_classes)


class RegionPyramid(nn.Module):
    """The region-wise pyramid (r-FPN): RoI features of 14 x 14, then 28, 56 and 112, each an exit.

    Args:
        num_classes: Classes with masks of their own at 14, 28 and 56; at 112 all share one.
        in_channels: Channels of the image pyramid and of the RoI features.
        channels: Channels at 14 x 14, halved by every stage; a multiple of 8.
        strides: Pixels per cell of P2 to P5. The three stages crop P4, P3 and P2.
    """

    sizes = (14, 28, 56, 112)

    def __init__(
        self, num_classes: int, in_channels: int, channels: int, strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.base = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        for value in self.base.parameters():
            if value.dim() > 1:
                nn.init.kaiming_normal_(value, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.zeros_(value)
        self.stages: Sequence[FeatureAggregation] = nn.ModuleList(  # type: ignore[assignment]
            FeatureAggregation(channels >> s, in_channels, strides[2 - s]) for s in range(3)
        )
        classes = (num_classes, num_classes, num_classes, 1)
        self.exits: Sequence[MaskExit] = nn.ModuleList(  # type: ignore[assignment]
            MaskExit(channels >> k, classes[k]) for k in range(4)
        )

    def every_size(
        self, x: Tensor, context: MaskContext, instances: Instances
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Mask and edge logits of all RoIs at all sizes, each a list of [N, S, S]."""
        masks, edges = [], []
        x = self.base(x)
        for k, exit in enumerate(self.exits):
            if k > 0:
                x = self.stages[k - 1](x, self._level(k - 1, context), instances.rois)
            masks.append(exit.mask(x, instances.labels))
            edges.append(exit.edge(x, instances.labels))
        return masks, edges

    def forward(
        self, x: Tensor, context: MaskContext, instances: Instances, state: Tensor
    ) -> RaggedMasks:
        """Mask logits of each RoI at its own size, at the cost of that size.

        Args:
            x: RoI features [N, C, 14, 14].
            context: What the stages crop.
            instances: The RoIs.
            state: Number of the mask size of each RoI [N], from 0.
        """
        return grouped_mask_head(
            self.base(x),
            [partial(self._level, k, context) for k in range(len(self.stages))],
            instances.rois,
            instances.labels,
            state,
            [1 / stage.stride for stage in self.stages],
            [stage.weights() for stage in self.stages],
            [(exit.mask.weight, exit.mask.bias) for exit in self.exits],
        )

    def _level(self, k: int, context: MaskContext) -> Tensor:
        """The pyramid level that stage k crops, projected."""
        if k not in context.projected:
            context.projected[k] = self.stages[k].project(context.features[2 - k])
        return context.projected[k]

    def count_macs(
        self, x: Tensor, context: MaskContext, instances: Instances, state: Tensor
    ) -> int:
        """MACs of the stages and exits that a call goes through."""
        return self.chosen_macs(state) - len(state) * self.reach_macs()[0]

    def chosen_counts(self, state: Tensor) -> list[int]:
        """RoIs per mask size."""
        return state.bincount(minlength=len(self.sizes)).tolist()

    def chosen_macs(self, state: Tensor) -> int:
        """MACs of masks of these sizes."""
        return sum(n * macs for n, macs in zip(self.chosen_counts(state), self.mask_macs()))

    def reach_macs(self) -> list[int]:
        """MACs per RoI from the features of one size to those of the next."""
        first = sum(conv.weight.numel() for conv in self.base if isinstance(conv, nn.Conv2d))
        later = [stage.macs(size) for stage, size in zip(self.stages, self.sizes)]
        return [self.sizes[0] ** 2 * first, *later]

    def exit_macs(self) -> list[int]:
        """MACs per RoI of the mask logits of each size."""
        return [exit.mask.weight.shape[1] * s * s for exit, s in zip(self.exits, self.sizes)]

    def mask_macs(self) -> list[int]:
        """MACs of one mask of each size, from the first convolution to its logits."""
        reach = self.reach_macs()
        return [sum(reach[: k + 1]) + macs for k, macs in enumerate(self.exit_macs())]
