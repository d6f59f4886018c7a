"""The mask branch runs without a word from the host, so a CUDA graph can record all of it.

Without a GPU that is shown by fake tensors on ``cuda``: what depends on their values raises, and so
does here whatever touches another device.
"""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    unset_fake_temporarily,
)

from dynamask.models.dynamic_mask_head import DynamicMaskHead
from dynamask.models.fused import fuse
from dynamask.models.instances import Instances
from dynamask.ops import Polygons
from dynamask.ops.feature_aggregation import FeatureAggregationWeights, _on_cuda

from ..gpu.captured import Captured
from ..ops.one_device import OnOneDevice

CLASSES, CHANNELS, IMAGE, ROIS = 5, 64, (256, 320), 100
MODES = ("dynamic", "size", "fixed=3")


@pytest.fixture
def fake_cuda():
    """In it tensors are made on a GPU that is not there."""
    with FakeTensorMode() as mode, torch.device("cuda"), torch.no_grad():
        yield mode


def a_head(mode="dynamic", switch_input="roi_14", dtype=torch.float32, fused=False):
    options = {"mode": mode, "switch_input": switch_input}
    head = DynamicMaskHead(CLASSES, CHANNELS, CHANNELS, **options).eval()
    return fuse(head, dtype) if fused else head.to(dtype)


def a_fake_head(mode, *args, **options):
    """A head whose numbers are fake ones on ``cuda``."""
    with unset_fake_temporarily(), torch.device("cpu"):
        head = a_head(*args, **options)
    return on_fake_cuda(mode, head)


def on_fake_cuda(mode, network):
    """A network whose numbers become fake ones on ``cuda``."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                if value is not None:
                    fake = mode.from_tensor(value).detach().to("cuda")
                    is_parameter = isinstance(value, torch.nn.Parameter)
                    tensors[name] = torch.nn.Parameter(fake, False) if is_parameter else fake
    return network


def inputs(dtype=torch.float32, count=ROIS):
    height, width = IMAGE
    levels = [
        torch.randn(2, CHANNELS, height // s, width // s, dtype=dtype) for s in (4, 8, 16, 32)
    ]
    corner = torch.rand(count, 2) * 150
    boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2) * 90], 1)
    image = torch.arange(count) % 2
    return levels, Instances(boxes, torch.randint(CLASSES, (count,)), image)


def run(head, levels, instances):
    context = head.context(levels, [IMAGE, IMAGE])
    return head.decode(head(context, instances), instances)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_waits_for_the_device(fake_cuda, mode, fused, dtype):
    head = a_fake_head(fake_cuda, mode, dtype=dtype, fused=fused)
    levels, instances = inputs(dtype)
    with OnOneDevice():
        masks = run(head, levels, instances)
    assert masks.values.shape == (ROIS * 112 * 112,)
    assert masks.sizes.shape == (ROIS,)
    assert masks.values.device.type == masks.sizes.device.type == "cuda"


@pytest.mark.parametrize("switch_input", ["p2_28", "p2_56"])
def test_nothing_waits_for_crops_of_the_switch(fake_cuda, switch_input):
    head, given = a_fake_head(fake_cuda, switch_input=switch_input), inputs()
    with OnOneDevice():
        run(head, *given)


def test_nothing_waits_where_there_are_no_rois(fake_cuda):
    head, given = a_fake_head(fake_cuda), inputs(count=0)
    with OnOneDevice():
        assert run(head, *given).values.shape == (0,)


def test_nothing_waits_before_the_switch_is_trained(fake_cuda):
    head, given = a_fake_head(fake_cuda), inputs()
    head.switch_enabled = False
    with OnOneDevice():
        run(head, *given)


def test_nothing_waits_inside_the_composed_stage(fake_cuda):
    head, (levels, instances) = a_fake_head(fake_cuda), inputs()
    stage = head.pyramid.stages[0]
    x, count = torch.randn(ROIS, CHANNELS, 14, 14), torch.full((1,), ROIS // 2)
    with OnOneDevice():
        weights = FeatureAggregationWeights(*stage.weights())
        _on_cuda(x, stage.project(levels[2]), instances.rois, 1 / 16, count, *weights)


@pytest.mark.parametrize("switch_enabled", [False, True], ids=["phase one", "phase two"])
@pytest.mark.parametrize("mode", ["dynamic", "size"])
def test_nothing_waits_for_the_loss(fake_cuda, mode, switch_enabled):
    head, (levels, instances) = a_fake_head(fake_cuda, mode).train(), inputs()
    head.switch_enabled, head.aux_all_stages = switch_enabled, 0.5
    outlines = Polygons(torch.rand(12, 2), *(torch.zeros(4, dtype=torch.int64) for _ in range(2)))
    index = torch.randint(3, (ROIS,))
    with OnOneDevice():
        context = head.context(levels, [IMAGE, IMAGE])
        codes = head(context, instances)
        losses = head.loss(codes, context, instances, (outlines, index))
        sum(losses.values())
    learned = {"budget", "entropy"} if mode == "dynamic" else set()
    expected = {"mask", "edge"} | ({"mask_all"} | learned if switch_enabled else set())
    assert losses.keys() == expected


@pytest.mark.parametrize(
    "waits",
    [
        lambda state: state.tolist(),
        lambda state: state.sum().item(),
        lambda state: bool(state.any()),
        lambda state: state[state > 0],
        lambda state: state.nonzero(),
        lambda state: state.repeat_interleave(state),
        lambda state: state + torch.tensor([14, 28], device="cuda"),
        lambda state: state.cpu(),
    ],
)
def test_what_waits_is_seen(fake_cuda, waits):
    state = torch.zeros(2, dtype=torch.int64)
    seen = (AssertionError, DataDependentOutputException, DynamicOutputShapeException)
    with pytest.raises(seen), OnOneDevice():
        waits(state)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_replays_with_other_inputs(monkeypatch, dtype):
    with torch.no_grad():
        head, (levels, instances) = a_head(dtype=dtype, fused=True), inputs(dtype)
        bias = torch.zeros(ROIS, 4)
        switch = head.selector.switch.forward
        monkeypatch.setattr(head.selector.switch, "forward", lambda x: 0 * switch(x) + bias)
        shares = torch.tensor([0.35, 0.34, 0.21, 0.10])

        def fill():
            """Other numbers in the tensors that the graph reads."""
            others, boxes = inputs(dtype)
            for level, other in zip(levels, others):
                level.copy_(other)
            instances.boxes.copy_(boxes.boxes)
            instances.labels.copy_(boxes.labels)
            state = torch.multinomial(shares, ROIS, replacement=True)
            bias.copy_(torch.nn.functional.one_hot(state, 4))
            return state

        fill()
        captured = Captured(lambda: run(head, levels, instances))
        for _ in range(3):
            state = fill()
            expected = run(head, levels, instances).split()
            masks = captured.replay()
            assert torch.equal(masks.sizes, torch.tensor(head.sizes)[state])
            for mask, wanted in zip(masks.split(), expected, strict=True):
                torch.testing.assert_close(mask, wanted, rtol=1e-4, atol=1e-4)
