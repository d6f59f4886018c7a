"""The models by name: plain functions that put the parts together."""

from torchvision.models.detection.rpn import RPNHead

from dynamask.models.anchors import Anchors
from dynamask.models.backbone import small_fpn
from dynamask.models.box_head import BoxHead
from dynamask.models.detector import Detector
from dynamask.models.mask_rcnn_head import MaskRCNNHead
from dynamask.models.postprocess import PostProcess
from dynamask.models.proposals import RegionProposalNetwork


def dynamask_tiny(num_classes: int, *, score_threshold: float = 0.05) -> Detector:
    """A small detector for small images (about 192 pixels), to be trained from nothing."""
    backbone = small_fpn()
    channels = backbone.out_channels
    return Detector(
        backbone=backbone,
        rpn=RegionProposalNetwork(
            RPNHead(channels, 3),
            Anchors((16, 32, 64, 128, 256)),
            candidates=(500, 200),
            kept=(200, 100),
            samples=128,
        ),
        box_head=BoxHead(channels, num_classes, hidden=256, samples=64, canonical_scale=96.0),
        mask_branch=MaskRCNNHead(channels, num_classes, channels=64, canonical_scale=96.0),
        postprocess=PostProcess(score_threshold, detections=50, candidates=1024),
        mask_rois=16,
    )


PRESETS = {"dynamask_tiny": dynamask_tiny}
