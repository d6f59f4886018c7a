from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import box_iou

from dynamask.models.box_coder import BoxCoder
from dynamask.models.box_selection import BoxSelection
from dynamask.models.instances import Instances
from dynamask.ops import multiscale_roi_align


@dataclass
class SampledRoIs:
    """Proposals that the losses of the heads see.

    Attributes:
        rois: (image, x0, y0, x1, y1) [R, 5], image by image.
        classes: Class as the classifier counts: 0 is the background, k + 1 is label k [R].
        boxes: The true box of each [R, 4]; anything where the class is 0.
        index: The true object of each among those of the whole batch, one image after the other
            [R]; anything where the class is 0.
        counts: RoIs of each image.
    """

    rois: Tensor
    classes: Tensor
    boxes: Tensor
    index: Tensor
    counts: list[int]

    def positive(self, limit: int) -> tuple[Instances, Tensor]:
        """At most ``limit`` RoIs per image that lie on an object, and the object of each [N]."""
        chosen, first = [], 0
        for classes in self.classes.split(self.counts):
            on_object = (classes > 0).nonzero().flatten()
            if len(on_object) > limit:
                order = torch.randperm(len(on_object), device=on_object.device)
                on_object = on_object[order[:limit]]
            chosen.append(on_object + first)
            first += len(classes)
        at = torch.cat(chosen)
        rois = self.rois[at]
        return Instances(rois[:, 1:], self.classes[at] - 1, rois[:, 0].long()), self.index[at]


class BoxHead(nn.Module):
    """Classifies proposals and corrects their boxes (Fast R-CNN with two hidden layers).

    Args:
        in_channels: Channels of the feature maps.
        num_classes: Classes without the background.
        hidden: Width of the two hidden layers.
        pool_size: Side of the RoI features.
        strides: Strides of the levels that RoIs are read from, P2 first.
        canonical_scale: Side in pixels of the RoIs that are read at stride 16.
        sampling_ratio: Samples per bin and side of RoIAlign; 0 takes as many as the bin needs.
        aligned: Whether RoIAlign shifts by half a pixel, as is exact.
        samples: RoIs of one image that the losses see.
        positive_fraction: Most of them that may be positive.
        smooth_l1_beta: Where the box loss turns from square to linear; 0 is L1.
        loss_weight: Weight of both losses.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        hidden: int = 1024,
        pool_size: int = 7,
        strides: Sequence[int] = (4, 8, 16, 32),
        canonical_scale: float = 224.0,
        sampling_ratio: int = 0,
        aligned: bool = True,
        samples: int = 512,
        positive_fraction: float = 0.25,
        smooth_l1_beta: float = 0.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.mlp: nn.Module = TwoMLPHead(in_channels * pool_size**2, hidden)
        self.predictor = FastRCNNPredictor(hidden, num_classes + 1)
        self.pool_size = pool_size
        self.scales = [1 / stride for stride in strides]
        self.canonical_scale = canonical_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.smooth_l1_beta = smooth_l1_beta
        self.loss_weight = loss_weight
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.matcher = Matcher(0.5, 0.5, allow_low_quality_matches=False)
        self.sampler = BalancedPositiveNegativeSampler(samples, positive_fraction)

    def forward(self, features: list[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [R, 1 + num_classes], background first, and box deltas [R, 1 + ..., 4]."""
        pooled = multiscale_roi_align(
            features[: len(self.scales)],
            rois,
            self.pool_size,
            self.scales,
            self.sampling_ratio,
            self.aligned,
            canonical_scale=self.canonical_scale,
        )
        logits, deltas = self.predictor(self.mlp(pooled))
        return logits.float(), deltas.float().unflatten(1, (-1, 4))

    @torch.no_grad()
    def sample(self, proposals: BoxSelection, targets: Sequence[dict]) -> SampledRoIs:
        """Matches proposals and true boxes with the truth; draws a sample of every image."""
        sampled, first = [], 0
        for image, target in enumerate(targets):
            boxes = torch.cat([proposals.boxes[image], target["boxes"]])
            exists = F.pad(proposals.valid[image], (0, len(target["boxes"])), value=True)
            classes, index = self.match(boxes, target)
            classes = classes.masked_fill(~exists, -1)
            positive, negative = self.sampler([classes])
            chosen = (positive[0] | negative[0]).nonzero().flatten()
            rois = F.pad(boxes[chosen], (1, 0), value=image)
            index = index[chosen]
            true_boxes = target["boxes"][index] if len(target["boxes"]) else boxes[chosen]
            sampled.append((rois, classes[chosen], true_boxes, index + first))
            first += len(target["boxes"])
        rois, classes, true_boxes, index = (torch.cat(column) for column in zip(*sampled))
        return SampledRoIs(rois, classes, true_boxes, index, [len(part[0]) for part in sampled])

    def match(self, boxes: Tensor, target: dict) -> tuple[Tensor, Tensor]:
        """Class of each box as the classifier counts, and which true box it lies on."""
        if len(target["boxes"]) == 0:
            nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
            return nothing, nothing
        index = self.matcher(box_iou(target["boxes"], boxes))
        return torch.where(index >= 0, target["labels"][index] + 1, 0), index.clamp(min=0)

    def loss(self, features: list[Tensor], rois: SampledRoIs) -> dict[str, Tensor]:
        """``class`` (cross entropy) and ``box`` (smooth L1 of positive RoIs), means over RoIs."""
        logits, deltas = self(features, rois.rois)
        count = max(len(rois.classes), 1)
        positive = (rois.classes > 0).nonzero().flatten()
        wanted = self.coder.encode_single(rois.boxes[positive], rois.rois[positive, 1:])
        classification = F.cross_entropy(logits, rois.classes, reduction="sum")
        box = F.smooth_l1_loss(
            deltas[positive, rois.classes[positive]],
            wanted,
            beta=self.smooth_l1_beta,
            reduction="sum",
        )
        return {
            "class": self.loss_weight * classification / count,
            "box": self.loss_weight * box / count,
        }
