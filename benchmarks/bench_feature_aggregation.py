"""feature_aggregation at the paper's three stages, against the same made of torchvision and torch.

The floor is one plain convolution as expensive as the two deformable ones and the 3x3 of the
offsets together: 93 % of what a stage multiplies.
"""

import pytest
import torch
import torchvision
from torch.nn import functional as F

from dynamask.benchmarks.harness import DEVICE, Case, on_gpu
from dynamask.ops import FeatureAggregationWeights, feature_aggregation

STAGES = [(256, 14, 16), (128, 28, 8), (64, 56, 4)]  # channels and size of x, stride of the level
IMAGE = (800, 1344)


class Stage:
    """Tensors of one stage, made when first asked for; whatever is not `rows` is NCHW."""

    def __init__(self, rois, channels, size, stride):
        self.shape = rois, channels, size, stride
        self.tensors = {}

    def __call__(self, dtype=torch.float32, rows=True):
        if (dtype, rows) not in self.tensors:
            layout = torch.channels_last if rows else torch.contiguous_format
            self.tensors[dtype, rows] = [
                t.to(dtype=dtype, memory_format=layout) if t.dim() == 4 else t.to(dtype)
                for t in self.make()
            ]
        x, level, rois, *weights = self.tensors[dtype, rows]
        return x, level, rois.float(), 1 / self.shape[3], FeatureAggregationWeights(*weights)

    def make(self):
        torch.manual_seed(0)
        n, c, size, stride = self.shape
        out, offsets = c // 2, 18 * (c // 64)

        def conv(o, i, k):
            return torch.randn(o, i, k, k) * (2 / (i * k * k)) ** 0.5

        corner = torch.rand(n, 2) * 500
        boxes = torch.cat([corner, corner + 20 + torch.rand(n, 2) * 250], 1)
        bias = torch.zeros(out), torch.zeros(out), torch.randn(offsets), torch.randn(offsets)
        return (
            torch.randn(n, c, size, size).relu(),
            torch.randn(1, out, IMAGE[0] // stride, IMAGE[1] // stride).relu(),
            torch.cat([torch.zeros(n, 1), boxes], 1),
            *(conv(out, c, 1), bias[0], conv(out, out, 1), bias[1]),
            *(conv(offsets, 2 * out, 3) / 4, bias[2], conv(out, out, 3)),
            *(conv(offsets, out, 1) / 4, bias[3], conv(out, out, 3)),
        )

    def floor(self, dtype=torch.float32):
        """As many multiplications as the two deformable convolutions and the first offsets."""
        x, _, _, _, w = self(dtype)
        wider = (2 * w.align_weight.numel() + w.offset1_weight.numel()) // w.reduce_bias.numel()
        if (dtype, "floor") not in self.tensors:
            n, _, size, _ = x.shape
            rows = torch.randn(n, w.reduce_bias.numel(), 2 * size, 2 * size, dtype=dtype)
            weight = torch.randn(wider // 9, rows.shape[1], 3, 3, dtype=dtype)
            self.tensors[dtype, "floor"] = [
                t.contiguous(memory_format=torch.channels_last) for t in (rows, weight)
            ]
        return torch.conv2d(*self.tensors[dtype, "floor"], padding=1)


def with_torchvision(x, level, rois, scale, w):
    x = F.interpolate(
        F.conv2d(x, w.reduce_weight, w.reduce_bias).relu_(), scale_factor=2.0, mode="bilinear"
    )
    crop = torchvision.ops.roi_align(level, rois, x.shape[-1], scale, 1, True)
    p = F.conv2d(crop, w.project_weight, w.project_bias).relu_()
    offset = F.conv2d(torch.cat([x, p], 1), w.offset1_weight, w.offset1_bias, padding=1)
    fused = torchvision.ops.deform_conv2d(x, offset, w.align_weight, padding=1).relu_() + p
    offset = F.conv2d(fused, w.offset2_weight, w.offset2_bias)
    return torchvision.ops.deform_conv2d(fused, offset, w.attend_weight, padding=1).relu_()


def agree(actual, expected, tolerance):
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"differs by {error:.3g} of the largest value"


def cases():
    for rois, stages in ((100, STAGES),) if on_gpu() else ((24, STAGES), (100, STAGES[:1])):
        for channels, size, stride in stages:
            stage = Stage(rois, channels, size, stride)
            name = f"N={rois} {channels}@{size} to {channels // 2}@{2 * size}"

            def theirs(stage=stage):
                return with_torchvision(*stage(rows=False))

            def ours(stage=stage):
                return feature_aggregation(*stage())

            def in_bf16(stage=stage):
                return feature_aggregation(*stage(torch.bfloat16))

            def theirs_in_bf16(stage=stage):
                with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16):
                    return with_torchvision(*stage(torch.bfloat16, rows=False))

            def rounded(stage=stage):
                x, level, rois, scale, weights = stage(torch.bfloat16)
                return feature_aggregation(
                    x.float(), level.float(), rois, scale, [w.float() for w in weights]
                )

            yield Case(
                op="feature_aggregation",
                case=name,
                ours=ours,
                baseline=theirs,
                baseline_name="torchvision",
                floor=stage.floor,
                check=lambda ours=ours, theirs=theirs: agree(ours(), theirs(), 1e-4),
            )
            yield Case(
                op="feature_aggregation",
                case=name,
                dtype="bfloat16",
                ours=in_bf16,
                baseline=theirs_in_bf16 if on_gpu() else ours,
                baseline_name="torchvision under autocast" if on_gpu() else "float32",
                floor=lambda stage=stage: stage.floor(torch.bfloat16),
                check=lambda a=in_bf16, b=rounded: agree(a().float(), b(), 0.05),
            )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_feature_aggregation(case, report):
    report(case)
