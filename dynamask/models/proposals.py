from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import box_iou

from dynamask.models.anchors import Anchors
from dynamask.models.box_coder import BoxCoder
from dynamask.models.box_selection import BoxSelection, clip, select_boxes
from dynamask.models.images import ImageBatch


class RegionProposalNetwork(nn.Module):
    """Says where objects may be, and learns to (Ren et al., Faster R-CNN).

    Args:
        head: torchvision's head: objectness and box deltas for every anchor of a level.
        anchors: The boxes that the deltas move.
        candidates: Most anchors of one level that enter NMS, in (training, inference).
        kept: Proposals of one image after NMS, in (training, inference).
        iou_threshold: Of two overlapping more than this, NMS keeps the better.
        min_size: Boxes thinner than this, in pixels, are dropped.
        samples: Anchors of one image that the losses see.
        positive_fraction: Most of them that may be positive.
        smooth_l1_beta: Where the box loss turns from square to linear; 0 is L1.
    """

    def __init__(
        self,
        head: RPNHead,
        anchors: Anchors,
        *,
        candidates: tuple[int, int] = (2000, 1000),
        kept: tuple[int, int] = (1000, 1000),
        iou_threshold: float = 0.7,
        min_size: float = 1e-3,
        samples: int = 256,
        positive_fraction: float = 0.5,
        smooth_l1_beta: float = 0.0,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        self.candidates = candidates
        self.kept = kept
        self.iou_threshold = iou_threshold
        self.min_size = min_size
        self.smooth_l1_beta = smooth_l1_beta
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
        self.sampler = BalancedPositiveNegativeSampler(samples, positive_fraction)

    def forward(
        self, features: list[Tensor], images: ImageBatch, targets: Sequence[dict] | None = None
    ) -> tuple[BoxSelection, dict[str, Tensor]]:
        """Proposals without gradient; in training also ``rpn_objectness`` and ``rpn_box``."""
        logits, deltas = self.head(features)
        # [B, A, H, W] and [B, 4A, H, W] to one row per anchor, in the order of the anchors
        logits = [x.float().permute(0, 2, 3, 1).flatten(1) for x in logits]
        deltas = [x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for x in deltas]
        anchors = self.anchors(features, images.pixels)
        with torch.no_grad():
            proposals = self.select(logits, deltas, anchors, images.limits)
        if not self.training:
            return proposals, {}
        assert targets is not None
        everywhere = torch.cat(logits, 1), torch.cat(deltas, 1).float(), torch.cat(anchors)
        return proposals, self.loss(*everywhere, targets)

    def select(
        self, logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], limits: Tensor
    ) -> BoxSelection:
        """The best boxes of every image, NMS within each level.

        Args:
            logits: Objectness of one level's anchors [B, A], for each level.
            deltas: How the boxes differ from them [B, A, 4], of any floating dtype.
            anchors: The anchors themselves [A, 4].
            limits: The largest coordinates of each image [B, 4].
        """
        candidates, kept = (
            pair[0 if self.training else 1] for pair in (self.candidates, self.kept)
        )
        chosen = []
        for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors)):
            score, best = logit.topk(min(candidates, logit.shape[1]), dim=1)  # [B, k]
            delta = delta.gather(1, best[:, :, None].expand(-1, -1, 4))
            chosen.append((delta, anchor[best], score, torch.full_like(best, level)))
        delta, anchor, scores, levels = (torch.cat(parts, 1) for parts in zip(*chosen))
        boxes = self.coder.decode_single(delta.float().flatten(0, 1), anchor.flatten(0, 1))
        return select_boxes(
            clip(boxes.view_as(anchor), limits),
            scores,
            levels,
            min_size=self.min_size,
            iou_threshold=self.iou_threshold,
            kept=kept,
        )

    def loss(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, targets: Sequence[dict]
    ) -> dict[str, Tensor]:
        """Objectness [B, A] and deltas [B, A, 4] of a sample of the anchors [A, 4]."""
        labels, matched = zip(*(self.match(anchors, target["boxes"]) for target in targets))
        positive, negative = (torch.stack(mask).bool() for mask in self.sampler(list(labels)))
        sampled = positive | negative  # [B, A]
        count = sampled.sum().clamp(min=1)
        wanted = self.coder.encode_single(
            torch.stack(matched)[positive], anchors.expand(len(targets), -1, -1)[positive]
        )
        objectness = F.binary_cross_entropy_with_logits(
            logits[sampled], torch.stack(labels)[sampled], reduction="sum"
        )
        box = F.smooth_l1_loss(deltas[positive], wanted, beta=self.smooth_l1_beta, reduction="sum")
        return {"rpn_objectness": objectness / count, "rpn_box": box / count}

    def match(self, anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each anchor is on an object (1), on none (0) or unclear (-1), and its box."""
        if len(boxes) == 0:
            return anchors.new_zeros(len(anchors)), torch.zeros_like(anchors)
        index = self.matcher(box_iou(boxes, anchors))
        labels = (index >= 0).to(anchors.dtype)
        labels[index == Matcher.BETWEEN_THRESHOLDS] = -1
        return labels, boxes[index.clamp(min=0)]
