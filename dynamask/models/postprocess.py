from dataclasses import dataclass

import torch
from torch import Tensor

from dynamask.models.box_coder import BoxCoder
from dynamask.models.box_selection import BoxSelection, clip, select_boxes


@dataclass(frozen=True)
class PostProcess:
    """From class scores and box deltas of the proposals to the objects of each image.

    Attributes:
        score_threshold: Objects less sure than this do not come out.
        iou_threshold: Of two objects of one class that overlap more than this, the better stays.
        detections: Objects of each image that come out, at most.
        candidates: Best (proposal, class) pairs of an image that enter NMS; torchvision takes all
            above the threshold, which is the same unless there are more than this.
        min_size: Boxes thinner than this, in pixels, are dropped.
    """

    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    detections: int = 100
    candidates: int = 4096
    min_size: float = 1e-2

    def __call__(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: BoxSelection,
        limits: Tensor,
        coder: BoxCoder,
    ) -> BoxSelection:
        """Detections whose ``groups`` are their labels.

        Args:
            logits: Classes of every proposal, background first [B * K, 1 + C].
            deltas: Box corrections by class [B * K, 1 + C, 4].
            proposals: K boxes of each image.
            limits: The largest coordinates of each image [B, 4].
            coder: What the deltas mean.
        """
        images, count = proposals.valid.shape
        classes = logits.shape[1] - 1
        scores = logits.softmax(1)[:, 1:].view(images, count, classes)
        keeps = (scores > self.score_threshold) & proposals.valid[:, :, None]
        scores = scores.masked_fill(~keeps, -torch.inf).flatten(1)  # [B, K * C]

        scores, pair = scores.topk(min(self.candidates, count * classes), dim=1)  # [B, M]
        proposal, label = pair // classes, pair % classes
        row = proposal + torch.arange(images, device=pair.device)[:, None] * count
        boxes = coder.decode_single(
            deltas[row, label + 1].flatten(0, 1), proposals.boxes.flatten(0, 1)[row].flatten(0, 1)
        )
        return select_boxes(
            clip(boxes.view(images, -1, 4), limits),
            scores,
            label,
            min_size=self.min_size,
            iou_threshold=self.iou_threshold,
            kept=self.detections,
        )
