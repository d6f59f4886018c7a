from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynamask.models.backbone import Backbone
from dynamask.models.box_head import BoxHead
from dynamask.models.box_selection import BoxSelection
from dynamask.models.fused import fuse
from dynamask.models.images import ImageBatch, check_images
from dynamask.models.instances import Instances
from dynamask.models.mask_branch import MaskBranch
from dynamask.models.postprocess import PostProcess
from dynamask.models.proposals import RegionProposalNetwork
from dynamask.ops import Polygons, RaggedMasks
from dynamask.prediction import Prediction

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Detector(nn.Module):
    """Finds objects and their masks: a two-stage detector with a mask branch of any kind.

    Args:
        backbone: Images to feature maps P2 ... P6.
        rpn: Feature maps to proposals.
        box_head: Proposals to classes and better boxes.
        postprocess: From those to the detections of each image.
        mask_branch: Masks of detections: a module such as
            :class:`~dynamask.models.mask_rcnn_head.MaskRCNNHead`.
        mask_rois: Most RoIs of one image that the mask branch is trained on.
        image_mean: Subtracted from every pixel, by channel.
        image_std: Divided by.

    Attributes:
        num_classes: Classes without the background.
        dtype: Of the feature maps.
        is_fused: Whether this is an inference form; see :meth:`fused`.
    """

    mask_branch: MaskBranch
    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        rpn: RegionProposalNetwork,
        box_head: BoxHead,
        postprocess: PostProcess,
        mask_branch: MaskBranch,
        mask_rois: int = 128,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.box_head = box_head
        self.postprocess = postprocess
        self.mask_branch = mask_branch
        self.mask_rois = mask_rois
        self.num_classes = box_head.num_classes
        self.dtype = torch.float32
        self.is_fused = False
        for name, values in (("image_mean", image_mean), ("image_std", image_std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict] | None = None
    ) -> dict[str, Tensor] | list[Prediction]:
        """Losses in training mode, otherwise what is in each image.

        Args:
            images: RGB images [3, H, W] of any sizes, floats in 0..1.
            targets: For training, of each image: ``boxes`` [G, 4] as (x0, y0, x1, y1) in pixels,
                ``labels`` [G] int64 in 0..num_classes - 1, ``polygons``: the G outlines.

        Returns:
            In training: ``rpn_objectness``, ``rpn_box``, ``class``, ``box`` and those of the mask
            branch, each a scalar. Otherwise one :class:`~dynamask.prediction.Prediction` per image,
            in its pixels.

        Raises:
            TypeError: if an image is not of a floating-point dtype.
            ValueError: if an image is not [3, H, W], or targets are missing in training.
        """
        batch = self.batch(images)
        features = self.backbone(batch.pixels)
        if self.training:
            return self.losses(batch, features, targets)
        detections = self.detect(batch, features)
        return self.predictions(batch, features, detections)

    def fused(
        self, dtype: torch.dtype = torch.float32, *, cudnn_epilogues: bool = False
    ) -> "Detector":
        """A copy for inference alone, faster and with the same results to rounding.

        Norms are folded into convolutions, sums and ReLUs run inside them. Nothing is shared with
        this detector, which stays the one to train, save and export.

        Args:
            dtype: Of weights and feature maps, such as bfloat16. Images, boxes, scores and masks
                stay in fp32, and so do the sums inside layers.
            cudnn_epilogues: See :func:`~dynamask.models.fused.fuse`.
        """
        fused = fuse(self, dtype, cudnn_epilogues=cudnn_epilogues)
        fused.dtype, fused.is_fused = dtype, True
        return fused

    def batch(self, images: Sequence[Tensor]) -> ImageBatch:
        """Normalises images and pads them to one size."""
        check_images(images)
        normalised = [(image - self.image_mean) / self.image_std for image in images]
        return ImageBatch.of(normalised, dtype=self.dtype)

    def losses(
        self, batch: ImageBatch, features: list[Tensor], targets: Sequence[dict] | None
    ) -> dict[str, Tensor]:
        """Every loss of a training step."""
        if targets is None or len(targets) != len(batch.sizes):
            count = None if targets is None else len(targets)
            raise ValueError(f"detector: expected {len(batch.sizes)} targets, got {count}")
        proposals, losses = self.rpn(features, batch, targets)
        rois = self.box_head.sample(proposals, targets)
        losses |= self.box_head.loss(features, rois)

        instances, index = rois.positive(self.mask_rois)
        outlines = Polygons.cat([target["polygons"] for target in targets])
        context = self.mask_branch.context(features, batch.sizes)
        codes = self.mask_branch(context, instances)
        return losses | self.mask_branch.loss(codes, context, instances, (outlines, index))

    def detect(self, batch: ImageBatch, features: list[Tensor]) -> BoxSelection:
        """A fixed number of boxes per image, ``groups`` being their labels: all shapes static."""
        proposals, _ = self.rpn(features, batch)
        rois = batch_rois(proposals.boxes)
        logits, deltas = self.box_head(features, rois)
        return self.postprocess(logits, deltas, proposals, batch.limits, self.box_head.coder)

    def predictions(
        self, batch: ImageBatch, features: list[Tensor], detections: BoxSelection
    ) -> list[Prediction]:
        """Masks of the boxes that are there, and all of it image by image."""
        image, slot = detections.valid.nonzero(as_tuple=True)
        boxes, labels = detections.boxes[image, slot], detections.groups[image, slot]
        context = self.mask_branch.context(features, batch.sizes)
        masks = self.masks(context, Instances(boxes, labels, image), batch.sizes)
        return by_image(detections, masks, batch.sizes)

    def masks(
        self, context: Any, instances: Instances, image_sizes: Sequence[tuple[int, int]]
    ) -> RaggedMasks:
        """Probabilities within the box of each instance."""
        return self.mask_branch.decode(self.mask_branch(context, instances), instances, image_sizes)

    def every_slot(self, batch: ImageBatch) -> tuple[BoxSelection, RaggedMasks]:
        """All that is found, with masks also of the slots of :meth:`detect` where nothing is.

        No shape depends on a value and nothing waits for a device, so all of it can be recorded as
        a CUDA graph: see :class:`~dynamask.models.recorded.RecordedDetector`.
        """
        features = self.backbone(batch.pixels)
        found = self.detect(batch, features)
        image = torch.arange(len(found.valid), device=found.valid.device)
        instances = Instances(
            found.boxes.flatten(0, 1),
            found.groups.flatten(),
            image[:, None].expand_as(found.valid).flatten(),
            found.valid.flatten(),
        )
        context = self.mask_branch.context(features, batch.extents)
        return found, self.masks(context, instances, batch.sizes)


def by_image(
    detections: BoxSelection, masks: RaggedMasks, image_sizes: Sequence[tuple[int, int]]
) -> list[Prediction]:
    """What is in each image, from all boxes and the masks of those that are there."""
    counts = detections.valid.sum(1).tolist()
    slots = detections.valid.flatten().nonzero().flatten()  # once, as it waits for a device
    sizes = masks.sizes.split(counts)
    lengths = [int((size * size).sum()) for size in sizes]
    values = masks.values[: sum(lengths)].split(lengths)
    columns = [column.flatten(0, 1)[slots].split(counts) for column in detections[:3]]
    ragged = [RaggedMasks(*pair) for pair in zip(values, sizes)]
    return [Prediction(*row) for row in zip(*columns, ragged, image_sizes)]


def batch_rois(boxes: Tensor) -> Tensor:
    """Boxes [B, K, 4] as the RoI operators take them: (image, x0, y0, x1, y1) [B * K, 5]."""
    image = torch.arange(boxes.shape[0], dtype=boxes.dtype, device=boxes.device)
    return torch.cat([image[:, None, None].expand(-1, boxes.shape[1], 1), boxes], 2).flatten(0, 1)
