"""One stage of the region pyramid: where it reads, and that it is the stage of the paper."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

from dynamask.models.dynamic_mask_head import DynamicMaskHead
from dynamask.models.feature_aggregation import FeatureAggregation
from dynamask.models.instances import Instances


def a_stage(channels=64, level_channels=16, stride=8):
    return FeatureAggregation(channels, level_channels, stride)


def inputs(stage, count=3, size=7):
    x = torch.randn(count, stage.reduce.in_channels, size, size)
    level = torch.randn(2, stage.project_level.in_channels, 20, 24)
    corner = torch.rand(count, 2) * 60
    boxes = torch.cat([corner, corner + 20 + torch.rand(count, 2) * 60], 1)
    image = torch.randint(2, (count, 1)).float()
    return x, level, torch.cat([image, boxes], 1)


def seen_by(module):
    """The inputs and outputs of a module's calls, as they come."""
    calls = []
    module.register_forward_hook(lambda module, inputs, output: calls.append((inputs, output)))
    return calls


def written_out(stage, x, level, rois):
    """The stage as the paper's Figure 3 reads, on torchvision's operators."""
    x = F.interpolate(stage.reduce(x).relu(), scale_factor=2.0, mode="bilinear")
    crop = torchvision.ops.roi_align(
        stage.project_level(level).relu(), rois, x.shape[-1], 1 / stage.stride, 1, True
    )
    p = stage.project_crop(crop).relu()
    offset = stage.offset1(torch.cat([x, p], 1))
    a = torchvision.ops.deform_conv2d(x, offset, stage.align.weight, padding=1).relu()
    f = a + p
    y = torchvision.ops.deform_conv2d(f, stage.offset2(f), stage.attend.weight, padding=1)
    return y.relu()


@pytest.mark.parametrize("channels", [128, 64, 8])
def test_matches_the_paper_written_out(channels):
    stage = a_stage(channels)
    for offset in (stage.offset1, stage.offset2):
        torch.nn.init.normal_(offset.weight, std=0.05)
        torch.nn.init.normal_(offset.bias)
    x, level, rois = inputs(stage)
    with torch.no_grad():
        actual = stage(x, stage.project(level), rois)
        expected = written_out(stage, x, level, rois)
    assert actual.shape == (3, channels // 2, 14, 14)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "groups"), [(256, 4), (128, 2), (64, 1), (16, 1), (200, 2)])
def test_offsets_come_in_one_group_per_32_channels(channels, groups):
    stage = a_stage(channels)
    assert stage.offset1.out_channels == stage.offset2.out_channels == 18 * groups


def test_starts_with_plain_convolutions():
    stage = a_stage()
    x, level, rois = inputs(stage)
    with torch.no_grad():
        level = stage.project(level)
        actual = stage(x, level, rois)
        x = F.interpolate(stage.reduce(x).relu(), scale_factor=2.0, mode="bilinear")
        crop = torchvision.ops.roi_align(level, rois, x.shape[-1], 1 / stage.stride, 1, True)
        f = F.conv2d(x, stage.align.weight, padding=1).relu() + stage.project_crop(crop).relu()
        plain = F.conv2d(f, stage.attend.weight, padding=1).relu()
    torch.testing.assert_close(actual, plain, rtol=1e-4, atol=1e-4)


def test_every_parameter_learns():
    stage = a_stage()
    x, level, rois = inputs(stage)
    x.requires_grad_()
    level.requires_grad_()
    stage(x, stage.project(level), rois).sum().backward()
    assert x.grad.any()
    assert level.grad.any()
    assert all(parameter.grad.any() for parameter in stage.parameters())


def test_no_rois():
    stage = a_stage()
    x, level, rois = inputs(stage, count=0)
    out = stage(x, stage.project(level), rois)
    assert out.shape == (0, 32, 14, 14)
    out.sum().backward()


def test_each_stage_crops_its_level_at_the_right_place():
    """Levels that hold their own pixel coordinates, P3's plus 1000, P4's plus 2000."""
    head = DynamicMaskHead(3, 8, 8)  # in training every RoI passes all stages
    height, width = 192, 256
    features = []
    for level, stride in enumerate((4, 8, 16, 32)):
        y = (torch.arange(height // stride) + 0.5) * stride
        x = (torch.arange(width // stride) + 0.5) * stride
        grid = torch.meshgrid(y + 1000 * level, x + 1000 * level, indexing="ij")
        features.append(F.pad(torch.stack(grid), (0, 0, 0, 0, 0, 6))[None])
    crops = []
    for stage in head.pyramid.stages:  # nothing passes but the crop
        for weight in stage.parameters():
            torch.nn.init.zeros_(weight)
        for conv in (stage.project_level, stage.project_crop):
            torch.nn.init.eye_(conv.weight[:, :, 0, 0].detach())
        torch.nn.init.eye_(stage.attend.weight[:, :, 1, 1].detach())
        crops.append(seen_by(stage))
    x0, y0, x1, y1 = 131.0, 47.0, 201.0, 167.0
    zero = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        head(
            head.context(features, [(height, width)]),
            Instances(torch.tensor([[x0, y0, x1, y1]]), zero, zero),
        )
    for s, (size, level) in enumerate(((28, 2), (56, 1), (112, 0))):
        [(_, crop)] = crops[s]
        cells = (torch.arange(size) + 0.5) / size
        y, x = y0 + cells * (y1 - y0) + 1000 * level, x0 + cells * (x1 - x0) + 1000 * level
        torch.testing.assert_close(crop[0, 0], y[:, None].expand(size, size))
        if crop.shape[1] > 1:
            torch.testing.assert_close(crop[0, 1], x.expand(size, size))
