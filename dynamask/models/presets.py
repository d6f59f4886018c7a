"""The models by name: plain functions that put the parts together."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torchvision.models.detection.rpn import RPNHead

from dynamask.models.anchors import Anchors
from dynamask.models.backbone import Backbone, resnet_fpn, small_fpn
from dynamask.models.box_head import BoxHead
from dynamask.models.conventions import Conventions, conventions_of
from dynamask.models.detector import Detector
from dynamask.models.dynamic_mask_head import DynamicMaskHead
from dynamask.models.mask_branch import MaskBranch
from dynamask.models.mask_rcnn_head import MaskRCNNHead
from dynamask.models.postprocess import PostProcess
from dynamask.models.proposals import RegionProposalNetwork


def dynamask_r50(
    num_classes: int,
    *,
    backbone: str = "resnet50",
    norm: str = "frozen_bn",
    weights: str | Path | None = None,
    trainable_stages: int | None = None,
    selector: str = "dynamic",
    budget: float | None = None,
    lambda2: float = 0.4,
    aux_all_stages: float = 0.0,
    proposals: int = 1000,
    score_threshold: float = 0.05,
    detections: int = 100,
    mask_rois: int = 128,
) -> Detector:
    """DynaMask with a ResNet-50 and FPN.

    Args:
        num_classes: Classes without the background.
        backbone: Any ResNet or ResNeXt of torchvision, by its name.
        norm: ``frozen_bn`` (for a backbone with trained weights), ``bn`` or ``gn``.
        weights: A file with torchvision's ImageNet weights of the backbone.
        trainable_stages: How many stages of the backbone, from the last, are trained.
        selector: How mask sizes are chosen: ``dynamic``, ``fixed=k`` or ``size``.
        budget: Mean GMACs of a mask that training aims at; by default the paper's 1.0.
        lambda2: Weight of the budget and entropy losses.
        aux_all_stages: Weight of a mask loss at every size while the switch trains.
        proposals: Proposals of an image at inference.
        score_threshold: Objects less sure than this do not come out.
        detections: Objects of one image that come out, at most.
        mask_rois: Most RoIs of one image that the mask branch is trained on.
    """
    pyramid = resnet_fpn(backbone, norm=norm, weights=weights, trainable_stages=trainable_stages)
    mask_branch = DynamicMaskHead(
        num_classes,
        pyramid.out_channels,
        mode=selector,
        budget=budget,
        lambda2=lambda2,
        aux_all_stages=aux_all_stages,
    )
    return two_stage(
        pyramid,
        mask_branch,
        num_classes,
        conventions_of("paper"),
        proposals=proposals,
        postprocess=PostProcess(score_threshold=score_threshold, detections=detections),
        mask_rois=mask_rois,
    )


dynamask_r101 = partial(dynamask_r50, backbone="resnet101")


def maskrcnn_r50(
    num_classes: int,
    *,
    backbone: str = "resnet50",
    norm: str = "frozen_bn",
    weights: str | Path | None = None,
    trainable_stages: int | None = None,
    mask_size: int = 28,
    conventions: str = "torchvision",
    proposals: int = 1000,
    score_threshold: float = 0.05,
    detections: int = 100,
    mask_rois: int = 128,
) -> Detector:
    """Mask R-CNN with a ResNet-50 and FPN: the baseline (He et al., 2017).

    Args:
        num_classes: Classes without the background.
        backbone: Any ResNet or ResNeXt of torchvision, by its name.
        norm: ``frozen_bn`` (for trained weights), ``bn`` or ``gn``.
        weights: A file with torchvision's ImageNet weights of the backbone.
        trainable_stages: How many stages of the backbone, from the last, are trained.
        mask_size: Side of the masks: 14, 28, 56 or 112.
        conventions: ``torchvision`` or ``paper``; see :mod:`dynamask.models.conventions`.
        proposals: Proposals of an image at inference.
        score_threshold: Objects less sure than this do not come out.
        detections: Objects of one image that come out, at most.
        mask_rois: Most RoIs of one image that the mask branch is trained on.
    """
    follow = conventions_of(conventions)
    pyramid = resnet_fpn(backbone, norm=norm, weights=weights, trainable_stages=trainable_stages)
    return two_stage(
        pyramid,
        MaskRCNNHead(
            pyramid.out_channels,
            num_classes,
            size=mask_size,
            sampling_ratio=follow.sampling_ratio,
            aligned=follow.aligned,
        ),
        num_classes,
        follow,
        proposals=proposals,
        postprocess=PostProcess(score_threshold=score_threshold, detections=detections),
        mask_rois=mask_rois,
    )


def dynamask_tiny(
    num_classes: int,
    *,
    width: int = 32,
    blocks: Sequence[int] = (1, 1, 1, 1),
    norm: str = "gn",
    mask_channels: int = 64,
    selector: str = "dynamic",
    budget: float | None = None,
    lambda2: float = 0.4,
    aux_all_stages: float = 0.0,
    proposals: int = 100,
    score_threshold: float = 0.05,
    detections: int = 50,
    mask_rois: int = 16,
) -> Detector:
    """A small DynaMask for small images (about 192 pixels), to be trained from nothing.

    Args:
        num_classes: Classes without the background.
        width: Channels of the backbone's first stage; every other has twice as many.
        blocks: Blocks in each stage of the backbone.
        norm: ``gn`` or ``bn``; ``frozen_bn`` for trained weights.
        mask_channels: Channels of the mask branch at 14 x 14; a multiple of 8.
        selector: How mask sizes are chosen: ``dynamic``, ``fixed=k`` or ``size``.
        budget: Mean GMACs of a mask that training aims at; by default the paper's 1.0, scaled to
            the channels of this mask branch.
        lambda2: Weight of the budget and entropy losses.
        aux_all_stages: Weight of a mask loss at every size while the switch trains.
        proposals: Proposals of an image at inference.
        score_threshold: Objects less sure than this do not come out.
        detections: Objects of one image that come out, at most.
        mask_rois: Most RoIs of one image that the mask branch is trained on.
    """
    backbone = small_fpn(width, blocks, norm=norm)
    channels = backbone.out_channels
    return Detector(
        backbone=backbone,
        rpn=RegionProposalNetwork(
            RPNHead(channels, 3),
            Anchors((16, 32, 64, 128, 256)),
            candidates=(500, 300),
            kept=(200, proposals),
            samples=128,
        ),
        box_head=BoxHead(channels, num_classes, hidden=256, samples=64, canonical_scale=96.0),
        postprocess=PostProcess(score_threshold, detections=detections, candidates=1024),
        mask_branch=DynamicMaskHead(
            num_classes,
            channels,
            mask_channels,
            mode=selector,
            budget=budget,
            lambda2=lambda2,
            aux_all_stages=aux_all_stages,
            canonical_scale=96.0,
        ),
        mask_rois=mask_rois,
    )


def two_stage(
    backbone: Backbone,
    mask_branch: MaskBranch,
    num_classes: int,
    follow: Conventions,
    *,
    proposals: int,
    postprocess: PostProcess,
    mask_rois: int,
) -> Detector:
    """Faster R-CNN in its usual size around a backbone and a mask branch."""
    channels = backbone.out_channels
    return Detector(
        backbone=backbone,
        rpn=RegionProposalNetwork(
            RPNHead(channels, 3),
            Anchors(convention=follow.anchors),
            kept=(follow.training_proposals, proposals),
            smooth_l1_beta=follow.smooth_l1_beta,
        ),
        box_head=BoxHead(
            channels,
            num_classes,
            sampling_ratio=follow.sampling_ratio,
            aligned=follow.aligned,
            smooth_l1_beta=follow.smooth_l1_beta,
        ),
        postprocess=postprocess,
        mask_branch=mask_branch,
        mask_rois=mask_rois,
    )


PRESETS: dict[str, Callable[..., Detector]] = {
    "dynamask_r50": dynamask_r50,
    "dynamask_r101": dynamask_r101,
    "maskrcnn_r50": maskrcnn_r50,
    "dynamask_tiny": dynamask_tiny,
}
