"""The mask branch with a mix of sizes against all sizes of every RoI, as the authors' code."""

import copy
from functools import cache, cached_property

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from pycocotools import mask as coco

from dynamask.benchmarks.bench_paste_masks import BASELINES, HEIGHT, WIDTH
from dynamask.benchmarks.harness import Case, on_gpu
from dynamask.models.dynamic_mask_head import DynamicMaskHead
from dynamask.models.fused import fuse
from dynamask.models.instances import Instances
from dynamask.ops import encode_masks

SHARES = (0.35, 0.34, 0.21, 0.10)  # the paper's Table 9 for a budget of 0.4
ROIS = 100
AT_ONCE = ROIS if on_gpu() else 25  # RoIs that the baseline takes, to hold its memory down


class Scene:
    """A head, what it reads, and the mask sizes asked for."""

    def __init__(self, channels: int, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.dtype = dtype
        self.head = DynamicMaskHead(80, channels, channels).eval()
        for stage in self.head.pyramid.stages:  # as trained: offsets are not zero
            torch.nn.init.normal_(stage.offset1.weight, std=0.05)
            torch.nn.init.normal_(stage.offset2.weight, std=0.2)
        mixed = [k for k, share in enumerate(SHARES) for _ in range(round(share * ROIS))]
        self.state = torch.tensor(mixed)[torch.randperm(ROIS)]
        chosen = F.one_hot(self.state, len(SHARES)).to(dtype)
        self.head.selector.switch.register_forward_hook(lambda *_: chosen)
        self.fused = fuse(self.head, dtype)
        self.head = copy.deepcopy(self.head).to(dtype)
        self.planes = [
            torch.randn(1, channels, -(-HEIGHT // s), -(-WIDTH // s)).to(dtype)
            for s in (4, 8, 16, 32)
        ]
        self.rows = [p.contiguous(memory_format=torch.channels_last) for p in self.planes]
        sides = 32 * (500 / 32) ** torch.rand(ROIS, 2)
        centres = torch.rand(ROIS, 2) * torch.tensor([WIDTH, HEIGHT])
        corners = torch.cat([centres - sides / 2, centres + sides / 2], 1)
        boxes = corners.clamp(min=0).minimum(torch.tensor([WIDTH, HEIGHT] * 2))
        zeros = torch.zeros(ROIS, dtype=torch.int64)
        self.instances = Instances(boxes, torch.randint(80, (ROIS,)), zeros)
        context = self.fused.context(self.rows, [(HEIGHT, WIDTH)])
        self.x = self.fused.roi_features(context, self.instances)
        self.x_planes = self.x.contiguous()

    @torch.no_grad()
    def logits(self):
        context = self.fused.context(self.rows, [(HEIGHT, WIDTH)])
        return self.fused.pyramid(self.x, context, self.instances, self.state)

    @torch.no_grad()
    def ours(self):
        masks = self.fused.decode(self.logits(), self.instances)
        return encode_masks(masks, self.instances.boxes, (HEIGHT, WIDTH))

    @torch.no_grad()
    def every_size(self):
        """Logits of every RoI at every size, every class's made, on torchvision's operators."""
        levels = self.levels()
        for first in range(0, ROIS, AT_ONCE):
            yield from zip(*self.stages(slice(first, first + AT_ONCE), levels))

    def levels(self):
        stages = self.head.pyramid.stages
        return [s.project_level(f).relu_() for s, f in zip(stages, self.planes[2::-1])]

    def stages(self, part, levels):
        """Logits of some RoIs, one tensor per size."""
        stages = self.head.pyramid.stages
        rois, labels = self.instances.rois[part], self.instances.labels[part]
        x, found = self.head.pyramid.base(self.x_planes[part]), []
        for k, exit in enumerate(self.head.pyramid.exits):
            if k > 0:
                x = stage_with_torchvision(stages[k - 1], x, levels[k - 1], rois)
            logits = F.conv2d(x, exit.mask.weight[:, :, None, None], exit.mask.bias)
            own = labels if logits.shape[1] > 1 else torch.zeros_like(labels)
            found.append(logits[torch.arange(len(labels), device=own.device), own])
        return found

    def baseline(self):
        boxes, found = self.instances.boxes, []
        for n, (masks, k) in enumerate(zip(self.every_size(), self.state.tolist())):
            mask = masks[k].float().sigmoid()[None]
            (frame,) = BASELINES["detectron2"](mask, boxes[n : n + 1]).cpu().numpy()
            found.append(coco.encode(np.asfortranarray(frame, dtype=np.uint8)))
        return found

    def check(self):
        """Logits agree, and run lengths cover the same pixels but for a few on outlines."""
        for mask, every, k in zip(self.logits().split(), self.every_size(), self.state.tolist()):
            torch.testing.assert_close(mask, every[k], rtol=1e-3, atol=1e-3 * every[k].std().item())
        for ours, theirs in zip(self.ours(), self.baseline()):
            differ = coco.decode(ours) != coco.decode(theirs)
            assert differ.sum() <= 1e-3 * max(coco.area(theirs), 1000)


class Recorded(Scene):
    """The whole branch in bf16, from the pyramid to probabilities, as one CUDA graph."""

    @torch.no_grad()
    def branch(self):
        context = self.fused.context(self.rows, [(HEIGHT, WIDTH)])
        return self.fused.decode(self.fused(context, self.instances), self.instances)

    @cached_property
    def graph(self):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.branch()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.masks = self.branch()
        return graph

    def replay(self):
        self.graph.replay()

    @torch.no_grad()
    def composition(self):
        """Probabilities of every RoI at every size, on torchvision's operators under autocast."""
        names = ["0", "1", "2", "3"]
        pooler = torchvision.ops.MultiScaleRoIAlign(names, 14, 2)
        with torch.autocast("cuda", torch.bfloat16):
            boxes = [self.instances.boxes]
            self.x_planes = pooler(dict(zip(names, self.planes)), boxes, [(HEIGHT, WIDTH)])
            return [logits.sigmoid() for logits in self.stages(slice(ROIS), self.levels())]

    def check(self):
        """The graph gives the masks of the branch, which agrees with the composition in fp32."""
        self.graph.replay()
        end, eager = int(self.masks.offsets[-1]), self.branch()
        assert end == sum(side * side for side in self.masks.sizes.tolist())
        # cuDNN may choose another algorithm in a recording, which rounds otherwise
        torch.testing.assert_close(self.masks.values[:end], eager.values[:end], rtol=0, atol=0.05)
        scene(256).check()


@cache
def scene(channels: int) -> Scene:
    return Scene(channels)


@cache
def recorded(channels: int) -> Recorded:
    return Recorded(channels, torch.bfloat16)


def stage_with_torchvision(stage, x, level, rois):
    x = F.interpolate(stage.reduce(x).relu_(), scale_factor=2.0, mode="bilinear")
    crop = torchvision.ops.roi_align(level, rois, x.shape[-1], 1 / stage.stride, 1, True)
    p = stage.project_crop(crop).relu_()
    offset = stage.offset1(torch.cat([x, p], 1))
    fused = torchvision.ops.deform_conv2d(x, offset, stage.align.weight, padding=1).relu_() + p
    offset = stage.offset2(fused)
    return torchvision.ops.deform_conv2d(fused, offset, stage.attend.weight, padding=1).relu_()


def on_gpu_cases():
    for channels in (256, 64):
        yield Case(
            op="dynamic_mask_head",
            case=f"N={ROIS} {channels} channels, 35/34/21/10 % at 14/28/56/112, as a CUDA graph",
            ours=lambda channels=channels: recorded(channels).replay(),
            baseline=lambda channels=channels: recorded(channels).composition(),
            baseline_name="all sizes on torchvision under autocast",
            check=lambda channels=channels: recorded(channels).check(),
            dtype="bfloat16",
        )


def cases():
    if on_gpu():
        yield from on_gpu_cases()
    for channels in (256, 64):
        yield Case(
            op="dynamic_mask_head",
            case=f"N={ROIS} {channels} channels, 35/34/21/10 % at 14/28/56/112, to RLE",
            ours=lambda channels=channels: scene(channels).ours(),
            baseline=lambda channels=channels: scene(channels).baseline(),
            baseline_name="all sizes on torchvision, detectron2 paste, pycocotools",
            check=lambda channels=channels: scene(channels).check(),
        )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_dynamic_mask_head(case, report):
    report(case)
