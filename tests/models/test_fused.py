import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d

from dynamask.data import open_dataset
from dynamask.models.fused import FusedConv2d, FusedMLP, FusedPyramid, add_upsampled_, fuse
from dynamask.models.presets import PRESETS

from ..pretend_cuda import PretendCuda


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


def test_proposals_by_one_convolution_of_whole_vectors():
    head = RPNHead(16, 3)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2)
    maps = [torch.randn(2, 16, *size) for size in ((9, 7), (5, 4), (1, 1))]
    fused = fuse(nn.Sequential(head))[0]
    assert fused.both.weight.shape == (16, 16, 1, 1)
    with torch.no_grad():
        for expected, found in zip(head(maps), fused(maps), strict=True):
            for level, of_level in zip(expected, found, strict=True):
                torch.testing.assert_close(of_level, level, atol=1e-5, rtol=1e-5)


def test_stays_on_its_device():
    fused = fuse(PRESETS["dynamask_r50"](5).to("meta"))
    assert {parameter.device.type for parameter in fused.parameters()} == {"meta"}


class Calls(TorchDispatchMode):
    """Names of the operators that are called, but for views."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.names.append(function._schema.name.partition("::")[2])
        return result


def called_on_a_gpu(fused, *args):
    """What a layer calls on a GPU, here on one that is pretended, and what comes out."""
    with PretendCuda(), torch.no_grad():
        on_gpu = [None if x is None else x.clone().to("cuda") for x in args]
        with Calls() as calls:
            found = fused(*on_gpu)
    return calls.names, found.detach()


def conv_and_input(kernel, dtype, stride=1, relu=True):
    conv = nn.Conv2d(16, 24, kernel, stride, kernel // 2)
    x = torch.randn(2, 16, 9, 7).contiguous(memory_format=torch.channels_last)
    return FusedConv2d(conv, relu=relu).requires_grad_(False).to(dtype), x.to(dtype)


@pytest.mark.parametrize("has_shortcut", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_pointwise_convolution_is_a_product_on_a_gpu(dtype, relu, has_shortcut):
    fused, x = conv_and_input(1, dtype, relu=relu)
    y = nn.functional.conv2d(x.float(), fused.weight.float(), fused.bias.float())
    shortcut = torch.randn_like(y).to(dtype) if has_shortcut else None
    expected = y + shortcut.float() if has_shortcut else y
    expected = expected.relu() if relu else expected
    names, found = called_on_a_gpu(fused, x, shortcut)
    sums = ["add_"] if has_shortcut else []
    if relu and not has_shortcut:
        assert names == ["_addmm_activation"]
    else:
        assert names == ["addmm", *sums, *(["relu_"] if relu else [])]
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("kernel", "stride", "dtype", "rows"),
    [
        (1, 1, torch.float32, True),
        (1, 1, torch.bfloat16, False),
        (1, 2, torch.bfloat16, True),
        (3, 1, torch.bfloat16, True),
    ],
)
def test_any_other_convolution_is_one_on_a_gpu(kernel, stride, dtype, rows):
    fused, x = conv_and_input(kernel, dtype, stride)
    names, found = called_on_a_gpu(fused, x if rows else x.contiguous())
    assert names[0] == "convolution"
    assert names[-1] == "relu_"
    torch.testing.assert_close(found, fused(x), atol=0.05, rtol=0.05)


def of_cudnn(x, weight, z, alpha, bias, *how):
    return (nn.functional.conv2d(x, weight, bias, *how) + alpha * z).relu()


@pytest.mark.parametrize("has_shortcut", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_epilogues_of_cudnn_where_they_are_asked_for(monkeypatch, kernel, has_shortcut):
    asked = []

    def cudnn_convolution_add_relu(*args):
        asked.append("add_relu")
        return of_cudnn(*args)

    def cudnn_convolution_relu(x, weight, *rest):
        asked.append("relu")
        return of_cudnn(x, weight, torch.zeros(()), 0.0, *rest)

    for function in (cudnn_convolution_relu, cudnn_convolution_add_relu):
        monkeypatch.setattr(torch, function.__name__, function)
    fused, x = conv_and_input(kernel, torch.bfloat16)
    rows = {"memory_format": torch.channels_last}
    shortcut = torch.randn(2, 24, 9, 7).bfloat16().contiguous(**rows) if has_shortcut else None
    expected = fused(x, shortcut.clone() if has_shortcut else None)
    fused.cudnn_epilogues = True
    _, found = called_on_a_gpu(fused, x, shortcut)
    in_one_call = ["relu"] if kernel == 3 else []  # the product has a ReLU of its own
    assert asked == (["add_relu"] if has_shortcut else in_one_call)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)

    fused.relu = False  # cuDNN would add one all the same
    asked.clear()
    called_on_a_gpu(fused, x, shortcut)
    assert asked == []


@pytest.mark.gpu
@pytest.mark.parametrize("has_shortcut", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("cudnn_epilogues", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu(dtype, cudnn_epilogues, kernel, has_shortcut):
    if not torch.cuda.is_available():
        pytest.skip("needs cuDNN")
    fused, x = conv_and_input(kernel, dtype)
    y = nn.functional.conv2d(x.double(), fused.weight.double(), fused.bias.double(), 1, kernel // 2)
    shortcut = torch.randn_like(y).to(dtype) if has_shortcut else None
    expected = (y + shortcut.double() if has_shortcut else y).relu()
    fused.cudnn_epilogues = cudnn_epilogues
    found = fused(x, shortcut)
    assert found.is_contiguous(memory_format=torch.channels_last)
    tolerance = 1e-4 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


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
