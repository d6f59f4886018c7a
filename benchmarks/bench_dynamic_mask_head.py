"""The mask branch with a mix of sizes against all sizes of every RoI, as the authors' code."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

from dynamask.benchmarks.harness import Case
from dynamask.models.dynamic_mask_head import DynamicMaskHead
from dynamask.models.instances import Instances

IMAGE = (800, 1088)
SHARES = (0.35, 0.34, 0.21, 0.10)  # the paper's Table 9 for a budget of 0.4
ROIS = 20


def everything_with_torchvision(head, features, rois, labels):
    """Every size of every RoI, every class's logits, on torchvision's operators."""
    x = pool_with_torchvision(features, rois)
    every = []
    for k, exit in enumerate(head.pyramid.exits):
        if k == 0:
            x = head.pyramid.base(x)
        else:
            x = stage_with_torchvision(head.pyramid.stages[k - 1], x, features[3 - k], rois)
        logits = F.conv2d(x, exit.mask.weight[:, :, None, None], exit.mask.bias)
        own = labels if logits.shape[1] > 1 else torch.zeros_like(labels)
        every.append(logits[torch.arange(len(labels)), own])
    return every


def pool_with_torchvision(features, rois):
    """RoIAlign level by level, as detectron2 does."""
    side = (rois[:, 3:] - rois[:, 1:3]).prod(1).sqrt()
    level_of = (4 + torch.log2(side / 224 + 1e-8)).floor().clamp(2, 5) - 2
    x = features[0].new_empty(len(rois), features[0].shape[1], 14, 14)
    for level, feature in enumerate(features):
        here = (level_of == level).nonzero().flatten()
        scale = 1 / (4 << level)
        x[here] = torchvision.ops.roi_align(feature, rois[here], 14, scale, 0, True)
    return x


def stage_with_torchvision(stage, x, level, rois):
    x = F.interpolate(stage.reduce(x).relu_(), scale_factor=2.0, mode="bilinear")
    level = stage.project_level(level).relu_()
    crop = torchvision.ops.roi_align(level, rois, x.shape[-1], 1 / stage.stride, 1, True)
    p = stage.project_crop(crop).relu_()
    offset = stage.offset1(torch.cat([x, p], 1))
    fused = torchvision.ops.deform_conv2d(x, offset, stage.align.weight, padding=1).relu_() + p
    offset = stage.offset2(fused)
    return torchvision.ops.deform_conv2d(fused, offset, stage.attend.weight, padding=1).relu_()


def cases():
    for channels in (256, 64):
        torch.manual_seed(0)
        head = DynamicMaskHead(80, channels, channels).eval()
        height, width = IMAGE
        features = [torch.randn(1, channels, height // s, width // s) for s in (4, 8, 16, 32)]
        channels_last = [f.contiguous(memory_format=torch.channels_last) for f in features]
        corner = torch.rand(ROIS, 2) * 500
        boxes = torch.cat([corner, corner + 20 + torch.rand(ROIS, 2) * 250], 1)
        zeros = torch.zeros(ROIS, dtype=torch.int64)
        instances = Instances(boxes, torch.randint(80, (ROIS,)), zeros)
        mixed = [k for k, share in enumerate(SHARES) for _ in range(round(share * ROIS))]
        state = torch.tensor(mixed)[torch.randperm(ROIS)]

        @torch.no_grad()
        def ours(head=head, features=channels_last, instances=instances, state=state):
            context = head.context(features, [IMAGE])
            x = head.roi_features(context, instances)
            return head.pyramid.dispatch(x, context, instances, state).logits

        @torch.no_grad()
        def baseline(head=head, features=features, instances=instances):
            return everything_with_torchvision(head, features, instances.rois, instances.labels)

        def check(ours=ours, baseline=baseline, state=state):
            every = baseline()
            for n, (k, mask) in enumerate(zip(state.tolist(), ours().split())):
                torch.testing.assert_close(mask, every[k][n], rtol=1e-4, atol=1e-4)

        yield Case(
            op="dynamic_mask_head",
            case=f"N={ROIS} {channels} channels, 35/34/21/10 % at 14/28/56/112",
            ours=ours,
            baseline=baseline,
            baseline_name="all sizes, torchvision",
            check=check,
        )


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.case.split(",")[0])
def test_dynamic_mask_head(case, report):
    report(case)
