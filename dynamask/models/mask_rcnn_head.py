from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads

from dynamask.models.images import ImageBatch
from dynamask.models.instances import Instances
from dynamask.ops import (
    Polygons,
    RaggedMasks,
    class_logits,
    mask_targets,
    multiscale_roi_align,
)


class MaskRCNNHead(nn.Module):
    """Mask R-CNN's mask branch: four convolutions, upsampling, one mask of the RoI's own class.

    Args:
        in_channels: Channels of the feature maps.
        num_classes: Classes without the background.
        size: Side of the masks, twice that of the RoI features: 14, 28, 56 or 112.
        channels: Channels within the branch.
        strides: Strides of the levels that RoIs are read from, P2 first.
        canonical_scale: Side in pixels of the RoIs that are read at stride 16.
        sampling_ratio: Samples per bin and side of RoIAlign; 0 takes as many as the bin needs.
        aligned: Whether RoIAlign shifts by half a pixel, as is exact.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        size: int = 28,
        channels: int = 256,
        strides: Sequence[int] = (4, 8, 16, 32),
        canonical_scale: float = 224.0,
        sampling_ratio: int = 0,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        if size % 2 or size <= 0:
            raise ValueError(f"mask_rcnn_head: expected an even size, got {size}")
        self.size = size
        self.scales = [1 / stride for stride in strides]
        self.canonical_scale = canonical_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.convs = MaskRCNNHeads(in_channels, [channels] * 4, dilation=1)
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, num_classes, 1)
        for name, parameter in [*self.upsample.named_parameters(), *self.logits.named_parameters()]:
            if name == "weight":
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.zeros_(parameter)

    def context(self, features: list[Tensor], images: ImageBatch) -> list[Tensor]:
        """What the branch needs of a batch, once: the levels P2 ... P5."""
        return features[: len(self.scales)]

    def forward(self, context: list[Tensor], instances: Instances) -> Tensor:
        """Mask logits of each instance's own class [N, size, size]."""
        pooled = multiscale_roi_align(
            context,
            instances.rois,
            self.size // 2,
            self.scales,
            self.sampling_ratio,
            self.aligned,
            canonical_scale=self.canonical_scale,
        )
        features = F.relu(self.upsample(self.convs(pooled)))
        return class_logits(features, self.logits.weight, self.logits.bias, instances.labels)

    def loss(
        self,
        codes: Tensor,
        context: list[Tensor],
        instances: Instances,
        targets: tuple[Polygons, Tensor],
    ) -> dict[str, Tensor]:
        """``mask``: binary cross entropy, mean over the pixels of all instances.

        Args:
            codes: What :meth:`forward` returned.
            context: What :meth:`context` returned.
            instances: The RoIs.
            targets: Outlines of the whole batch, and which of them each RoI is on [N].
        """
        outlines, index = targets
        wanted = mask_targets(outlines, instances.boxes, index, (self.size,))[0]
        error = F.binary_cross_entropy_with_logits(
            codes.float(), wanted.to(torch.float32), reduction="sum"
        )
        return {"mask": error / max(codes.numel(), 1)}

    def decode(
        self, codes: Tensor, instances: Instances, image_sizes: Sequence[tuple[int, int]]
    ) -> RaggedMasks:
        """Probabilities of each instance's mask."""
        return RaggedMasks.of(codes.float().sigmoid())
