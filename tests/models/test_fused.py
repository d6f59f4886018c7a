import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from dynamask.data import open_dataset
from dynamask.models.fused import FusedConv2d, FusedMLP, FusedPyramid, add_upsampled_, fuse
from dynamask.models.presets import PRESETS


@pytest.fixture(scope="module")
def image():
    return open_dataset("shapes-mini", "val")[0][0].float() / 255


def detector(name, **options):
    """Random weights, and norms and a classifier that leave a trace."""
    torch.manual_seed(0)
    model = PRESETS[name](5, score_threshold=0.0, detections=20, **options)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.5)
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.normal_(module.bias, std=0.1)
    nn.init.normal_(model.box_head.predictor.cls_score.weight, std=0.05)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dynamask_tiny", {"selector": "size"}),
        ("dynamask_tiny", {"norm": "bn", "selector": "dynamic"}),
        ("dynamask_r50", {"backbone": "resnet18", "norm": "bn", "selector": "fixed=1"}),
        ("dynamask_r50", {"proposals": 100, "selector": "size"}),
        ("maskrcnn_r50", {"proposals": 100, "backbone": "resnext50_32x4d"}),
        ("maskrcnn_r50", {"proposals": 100}),
    ],
    ids=str,
)
def test_finds_what_the_training_form_finds(image, name, options):
    model = detector(name, **options)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    fused = model.fused()
    with torch.no_grad():
        (expected,), (found,) = model([image]), fused([image])
    assert len(expected) == len(found) > 5
    torch.testing.assert_close(found.scores, expected.scores, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=5e-3, rtol=1e-4)
    assert found.labels.equal(expected.labels)
    assert found.mask_size.equal(expected.mask_size)
    torch.testing.assert_close(found.masks.values, expected.masks.values, atol=1e-3, rtol=1e-3)
    assert all(model.state_dict()[key].equal(value) for key, value in state.items())


def test_shares_nothing_and_stays_fused():
    model = detector("dynamask_tiny")
    fused = model.fused()
    ours = {value.data_ptr() for value in model.state_dict().values()}
    assert not ours & {value.data_ptr() for value in fused.state_dict().values()}
    assert (model.is_fused, fused.is_fused) == (False, True)
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_everything_that_can_be_fused_is():
    fused = detector("dynamask_r50").fused()
    kinds = {type(module) for module in fused.modules()}
    assert not kinds & {nn.BatchNorm2d, FrozenBatchNorm2d, nn.Conv2d}
    assert kinds >= {FusedConv2d, FusedMLP, FusedPyramid}


def test_bfloat16_boxes_and_scores_are_fp32(image):
    model = detector("dynamask_tiny", selector="size")
    with torch.no_grad():
        (expected,), (found,) = model([image]), model.fused(torch.bfloat16)([image])
    assert found.boxes.dtype == found.scores.dtype == found.masks.values.dtype == torch.float32
    assert abs(found.scores.sum() - expected.scores.sum()) < 0.05 * expected.scores.sum()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("has_shortcut", [False, True])
@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d, FrozenBatchNorm2d])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("shape", [(2, 16, 9, 7), (0, 16, 9, 7), (1, 16, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_convolution_norm_sum_and_relu(relu, has_shortcut, norm, kernel, stride, shape, dtype):
    conv = nn.Conv2d(16, 17, kernel, stride, kernel // 2, bias=norm is None).to(dtype)
    norm = norm and norm(17).to(dtype).eval()
    if norm is not None:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(shape, dtype=dtype)
    with torch.no_grad():
        expected = conv(x) if norm is None else norm(conv(x))
        shortcut = torch.randn_like(expected).to(memory_format=torch.channels_last)
        expected = expected + shortcut if has_shortcut else expected
        expected = expected.relu() if relu else expected
        fused = FusedConv2d(conv, norm, relu)
        if dtype == torch.float32:
            fused.transform()
        found = fused(x, shortcut.clone() if has_shortcut else None)
    assert (fused.transformed is not None) == ((dtype, kernel, stride) == (torch.float32, 3, 1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_input():
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    fuse(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_adds_the_nearest_cell(size):
    x, coarse = torch.randn(2, 3, *size), torch.randn(2, 3, 2, 3)
    expected = x + nn.functional.interpolate(coarse, size=size)
    assert add_upsampled_(x, coarse).equal(expected)


def test_compiles():
    model = nn.Sequential(nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        found = torch.compile(fuse(model), fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(found, model(x))
