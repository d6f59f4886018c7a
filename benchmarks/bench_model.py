"""Whole models: one image of 800 x 1333 in, COCO run lengths of 100 objects out."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from dynamask.benchmarks.harness import DEVICE, Case, on_gpu
from dynamask.models.detector import Detector
from dynamask.models.fused import FusedConv2d
from dynamask.models.presets import dynamask_r50
from dynamask.models.recorded import RecordedDetector
from dynamask.models.torchvision_weights import load_torchvision

HEIGHT, WIDTH = 800, 1333
SHARES = (0.35, 0.34, 0.21, 0.10)  # the paper's Table 9 for a budget of 0.4
CLASSES = 80


def on_cpu(make: Callable[[], Any]) -> Any:
    """Something random made on the CPU, so that it is the same everywhere, then moved."""
    with torch.device("cpu"):
        torch.manual_seed(0)
        made = make()
    return made.to(DEVICE)


@cache
def image() -> Tensor:
    coarse = on_cpu(lambda: torch.rand(1, 3, HEIGHT // 8, WIDTH // 8))
    return F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0]


@cache
def torchvision() -> nn.Module:
    return on_cpu(random_torchvision)


def random_torchvision() -> nn.Module:
    """torchvision's ``maskrcnn_resnet50_fpn`` as it is with trained weights: frozen batch norm.

    Its weights are random, but such that boxes have all sizes, some 500 pass the score threshold
    and 100 come out, as on a photograph.
    """
    model = MaskRCNN(resnet_fpn_backbone(backbone_name="resnet50", weights=None), CLASSES + 1)
    for name, module in model.named_modules():
        if name.endswith("bn3"):
            nn.init.constant_(module.weight, 0.25)
    for block, gain in zip(model.backbone.fpn.layer_blocks, (1.0, 1.5, 2.5, 4.0)):
        block[0].weight.data *= gain
    nn.init.normal_(model.rpn.head.bbox_pred.weight, std=0.3)
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.4)
    nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=3.5)
    return model.eval()


@cache
def unfused() -> Detector:
    """DynaMask with torchvision's weights up to the boxes, and masks of the shares above."""
    model = dynamask_r50(CLASSES).eval()
    load_torchvision(model, torchvision().state_dict())

    choices: dict[int, Tensor] = {}

    def of_shares(switch: nn.Module, args: tuple, logits: Tensor) -> Tensor:
        if len(logits) not in choices:  # looked up from then on, so that nothing waits for it
            with torch.device("cpu"):
                ends = (torch.tensor(SHARES).cumsum(0) * len(logits)).round()
                states = (torch.arange(len(logits))[:, None] >= ends).sum(1).clamp(max=3)
                mixed = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))
                choices[len(logits)] = F.one_hot(states[mixed], len(SHARES)).to(logits)
        return choices[len(logits)].to(logits)

    model.mask_branch.selector.switch.register_forward_hook(of_shares)
    return model


@cache
def dynamask(dtype: torch.dtype) -> Detector:
    return unfused().fused(dtype)


@cache
def with_epilogues() -> Detector:
    return unfused().fused(torch.bfloat16, cudnn_epilogues=True)


@torch.no_grad()
def ours(dtype: torch.dtype) -> list[dict]:
    return dynamask(dtype)([image()])[0].rle()


@cache
def recorded(model: Detector) -> RecordedDetector:
    return RecordedDetector(model)


def replayed(model: Detector) -> list[dict]:
    return recorded(model)([image()])[0].rle()


@torch.no_grad()
def pasted() -> Tensor:
    """Masks as torchvision pastes them, above one half; on a GPU the network is under autocast."""
    with torch.autocast("cuda", torch.bfloat16, enabled=on_gpu()):
        found = torchvision()([image()])[0]
    return found["masks"][:, 0] > 0.5


def baseline() -> list[dict]:
    """torchvision's masks through pycocotools."""
    masks = pasted().cpu().numpy().astype(np.uint8)
    return [coco.encode(np.asfortranarray(mask)) for mask in masks]


@torch.no_grad()
def check_fp32() -> None:
    """Fused and unfused agree, torchvision finds as many objects, and all masks can be read."""
    (expected,), (found,) = unfused()([image()]), dynamask(torch.float32)([image()])
    assert len(found) == len(expected) == 100
    assert found.mask_size.bincount()[[14, 28, 56, 112]].tolist() == [35, 34, 21, 10]
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=0.1, rtol=1e-3)
    assert found.labels.equal(expected.labels)
    wrong = ((found.masks.values > 0.5) != (expected.masks.values > 0.5)).float().mean()
    assert wrong < 1e-3, f"{wrong:.2%} of the mask pixels differ"
    for masks in (found.rle(), baseline()):
        assert len(masks) == 100
        assert all(coco.decode(mask).shape == (HEIGHT, WIDTH) for mask in masks)


@torch.no_grad()
def check_bf16() -> None:
    """Feature maps agree to 2 %, and as many masks come out that can be read."""
    maps = []
    for dtype in (torch.float32, torch.bfloat16):
        model = dynamask(dtype)
        maps.append(model.backbone(model.batch([image()]).pixels))
        masks = ours(dtype)
        assert len(masks) == 100
        assert all(coco.decode(mask).shape == (HEIGHT, WIDTH) for mask in masks)
    for exact, half in zip(*maps):
        assert (half.float() - exact).norm() < 0.02 * exact.norm()


@torch.no_grad()
def check_recorded(model: Detector) -> None:
    """The recording finds what the detector does that was recorded."""
    (expected,), (found,) = model([image()]), recorded(model)([image()])
    assert found.labels.equal(expected.labels)
    assert found.mask_size.equal(expected.mask_size)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=0.1, rtol=1e-3)
    torch.testing.assert_close(found.masks.values, expected.masks.values, atol=0.05, rtol=0)


@torch.no_grad()
def multiplications() -> list[tuple[Tensor, nn.Module | Tensor]]:
    """Inputs and weights of every convolution and linear layer of our model, for the floor."""
    model, calls, hooks = dynamask(torch.float32), [], []

    def record(module, args, output):
        calls.append((args[0].shape, module))

    for module in model.modules():
        if isinstance(module, FusedConv2d | nn.Linear):
            hooks.append(module.register_forward_hook(record))
    model([image()])
    for hook in hooks:
        hook.remove()
    reached = [100, 65, 31, 10]
    for stage, size, count in zip(model.mask_branch.pyramid.stages, (14, 28, 56), reached[1:]):
        for name, module in stage.named_children():
            if name != "project_level":
                side = size if name == "reduce" else 2 * size
                calls.append(((count, module.weight.shape[1], side, side), module))
    return calls


@cache
def floor_calls() -> list:
    """What to run, on one buffer of noise."""
    calls = multiplications()
    noise = torch.randn(max(torch.Size(shape).numel() for shape, _ in calls))
    runs = []
    for shape, module in calls:
        x = noise[: torch.Size(shape).numel()]
        if isinstance(module, nn.Linear):
            runs.append((x.view(shape), module, None))
            continue
        n, c, h, w = shape
        x = x.view(n, h, w, c).permute(0, 3, 1, 2)
        how = [getattr(module, name) for name in ("stride", "padding", "dilation", "groups")]
        runs.append((x, module, how))
    return runs


@torch.no_grad()
def floor() -> None:
    """The same convolutions and linear layers on oneDNN alone, nothing between them."""
    for x, module, how in floor_calls():
        if how is None:
            F.linear(x, module.weight, module.bias)
        else:
            stride, padding, dilation, groups = how
            torch.ops.mkldnn._convolution_pointwise(
                x, module.weight, module.bias, padding, stride, dilation, groups, "none", [], ""
            )


def on_gpu_cases():
    """To run lengths on both sides; and against torchvision's frames, which stay on the GPU."""
    what = f"dynamask_r50, {HEIGHT}x{WIDTH} to RLE, 100 objects, 35/34/21/10 %"
    name = "torchvision maskrcnn_resnet50_fpn under autocast"
    forms = (
        (what, lambda: ours(torch.bfloat16), check_bf16),
        (
            f"{what}, recorded",
            lambda: replayed(dynamask(torch.bfloat16)),
            lambda: check_recorded(dynamask(torch.bfloat16)),
        ),
    )
    for theirs, end in ((baseline, ", pycocotools"), (pasted, " to frames")):
        for case, run, check in forms:
            yield Case(
                op="model",
                case=case,
                ours=run,
                baseline=theirs,
                baseline_name=name + end,
                check=check,
                dtype="bfloat16",
            )
    yield Case(
        op="model",
        case=f"{what}, recorded, with cuDNN's epilogues",
        ours=lambda: replayed(with_epilogues()),
        baseline=lambda: replayed(dynamask(torch.bfloat16)),
        baseline_name="ours without",
        check=lambda: check_recorded(with_epilogues()),
        dtype="bfloat16",
    )


def cases():
    if on_gpu():
        yield from on_gpu_cases()
        return
    yield Case(
        op="model",
        case=f"dynamask_r50, {HEIGHT}x{WIDTH} to RLE, 100 objects, 35/34/21/10 %",
        ours=lambda: ours(torch.float32),
        baseline=baseline,
        baseline_name="torchvision maskrcnn_resnet50_fpn, pycocotools",
        check=check_fp32,
        floor=floor,
    )
    yield Case(
        op="model",
        case=f"dynamask_r50, {HEIGHT}x{WIDTH} to RLE, 100 objects, 35/34/21/10 %",
        ours=lambda: ours(torch.bfloat16),
        baseline=lambda: ours(torch.float32),
        baseline_name="ours in fp32",
        check=check_bf16,
        dtype="bfloat16",
    )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_model(case, report):
    report(case)
