from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads

from dynamask.models.instances import Instances
from dynamask.models.region_pyramid import ClassLogits
from dynamask.ops import (
    Polygons,
    RaggedMasks,
    mask_edge_loss,
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

    Attributes:
        costs: GMACs of a mask, with the logits of one class (the papers count those of all).
        last_counts: Masks of the latest call.
        last_macs: Multiply-accumulates of the latest call.
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
        self.sizes = (size,)
        self.in_channels = in_channels
        self.scales = [1 / stride for stride in strides]
        self.canonical_scale = canonical_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.convs = MaskRCNNHeads(in_channels, [channels] * 4, dilation=1)
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        nn.init.kaiming_normal_(self.upsample.weight, mode="fan_out", nonlinearity="relu")
        nn.init.constant_(self.upsample.get_parameter("bias"), 0)
        self.logits = ClassLogits(channels, num_classes)
        self.costs = [self.mask_macs() / 1e9]
        self.last_counts = [0]
        self.last_macs = 0

    def mask_macs(self) -> int:
        """Multiply-accumulates of one mask, from the weights."""
        weights = [conv[0].weight for conv in self.convs] + [self.upsample.weight]
        cells = (self.size // 2) ** 2
        return cells * sum(w.numel() for w in weights) + self.size**2 * self.logits.weight.shape[1]

    def context(
        self, features: list[Tensor], image_sizes: Sequence[tuple[int, int]] | Tensor
    ) -> list[Tensor]:
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
        self.last_counts = [len(instances)]
        self.last_macs = round(len(instances) * self.costs[0] * 1e9)
        return self.logits(features, instances.labels)

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
        error, _ = mask_edge_loss(codes, wanted)
        return {"mask": error.sum() / max(len(instances), 1)}

    def decode(
        self, codes: Tensor, instances: Instances, image_sizes: Sequence[tuple[int, int]]
    ) -> RaggedMasks:
        """Probabilities of each instance's mask."""
        return RaggedMasks.of(codes.float().sigmoid())
