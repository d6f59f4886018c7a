import pytest
import torch

from dynamask.models.backbone import resnet_fpn, small_fpn
from dynamask.models.presets import PRESETS, dynamask_r50, dynamask_tiny, maskrcnn_r50


def millions(model: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def test_names():
    assert list(PRESETS) == ["dynamask_r50", "dynamask_r101", "maskrcnn_r50", "dynamask_tiny"]


def test_the_tiny_one_is_small():
    assert 2 < millions(dynamask_tiny(10)) < 6
    assert millions(dynamask_r50(80)) > 40


def test_options_reach_their_parts():
    model = dynamask_r50(
        5,
        backbone="resnet18",
        selector="fixed=1",
        budget=0.7,
        lambda2=0.1,
        score_threshold=0.2,
        detections=7,
        proposals=50,
        mask_rois=9,
    )
    branch = model.mask_branch
    assert (branch.selector.mode, branch.budget, branch.lambda2) == ("fixed=1", 0.7, 0.1)
    assert (model.postprocess.score_threshold, model.postprocess.detections) == (0.2, 7)
    assert (model.rpn.kept[1], model.mask_rois) == (50, 9)


def test_conventions():
    ours, theirs = dynamask_r50(2, backbone="resnet18"), maskrcnn_r50(2, backbone="resnet18")
    for model, aligned, sampling, beta in ((ours, True, 0, 0), (theirs, False, 2, 1 / 9)):
        assert (model.box_head.aligned, model.box_head.sampling_ratio) == (aligned, sampling)
        assert model.rpn.smooth_l1_beta == model.box_head.smooth_l1_beta == beta
    with pytest.raises(ValueError, match="expected one of paper, torchvision, got 'mmdet'"):
        maskrcnn_r50(2, conventions="mmdet")


@pytest.mark.parametrize("norm", ["frozen_bn", "bn", "gn"])
@pytest.mark.parametrize("build", [lambda norm: resnet_fpn("resnet18", norm=norm), small_fpn])
def test_pyramids_have_five_levels_channels_last(build, norm):
    backbone = build(norm=norm).eval()
    pixels = torch.rand(2, 3, 96, 64).to(memory_format=torch.channels_last)
    with torch.no_grad():
        levels = backbone(pixels)
    channels = backbone.out_channels
    sides = [(24, 16), (12, 8), (6, 4), (3, 2), (2, 1)]
    assert [level.shape for level in levels] == [(2, channels, *side) for side in sides]
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in levels[:4])


def test_unknown_names():
    with pytest.raises(ValueError, match=r"backbone: expected one of .*resnet50.*, got 'resnet5'"):
        resnet_fpn("resnet5")
    with pytest.raises(ValueError, match="norm one of frozen_bn, bn, gn, got 'ln'"):
        resnet_fpn("resnet18", norm="ln")
    with pytest.raises(ValueError, match=r"trainable_stages in 0\.\.5, got 6"):
        resnet_fpn("resnet18", trainable_stages=6)
