"""The mask branch as a whole: what it puts out, what it runs, what it trains."""

import pytest
import torch
from torch.export import Dim

from dynamask.models.dynamic_mask_head import DynamicMaskHead
from dynamask.models.instances import Instances
from dynamask.models.macs import count_macs
from dynamask.models.region_pyramid import MaskContext
from dynamask.ops import Polygons, RaggedMasks

CLASSES, CHANNELS, IMAGE = 5, 32, (128, 160)
SIZES = (14, 28, 56, 112)


def pyramid(requires_grad=False):
    """P2 to P6 of two images."""
    height, width = IMAGE
    return [
        torch.randn(2, CHANNELS, height // s, width // s, requires_grad=requires_grad)
        for s in (4, 8, 16, 32, 64)
    ]


def some_instances(count):
    corner = torch.rand(count, 2) * 80
    boxes = torch.cat([corner, corner + 8 + torch.rand(count, 2) * 40], 1)
    return Instances(boxes, torch.randint(CLASSES, (count,)), torch.randint(2, (count,)))


def outlines(instances):
    corners = instances.boxes.tolist()
    return Polygons.of([[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in corners])


def a_head(**options):
    return DynamicMaskHead(CLASSES, CHANNELS, CHANNELS, **options)


def choose(head, monkeypatch, states):
    """Makes the switch prefer the given states, in order of the instances."""
    logits = torch.nn.functional.one_hot(torch.tensor(states), 4).float()
    monkeypatch.setattr(head.selector.switch, "forward", lambda features: logits)


def step(head, instances, features=None):
    features = pyramid() if features is None else features
    context = head.context(features, [IMAGE, IMAGE])
    codes = head(context, instances)
    targets = outlines(instances), torch.arange(len(instances))
    return codes, head.loss(codes, context, instances, targets)


def test_training_gives_every_size_of_every_roi():
    codes, _ = step(a_head(), some_instances(3))
    for logits in (codes.masks, codes.edges):
        assert [tuple(x.shape) for x in logits] == [(3, s, s) for s in SIZES]


def test_stages_halve_channels_and_double_sizes():
    head = a_head()
    seen = []
    for stage in head.pyramid.stages:
        stage.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        head(head.context(pyramid(), [IMAGE, IMAGE]), some_instances(3))
    assert [tuple(x.shape) for x in seen] == [(3, 16, 28, 28), (3, 8, 56, 56), (3, 4, 112, 112)]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


@pytest.mark.parametrize("mode", ["dynamic", "size", "fixed=0", "fixed=3"])
def test_dispatch_equals_running_everything_and_picking(mode, monkeypatch):
    head, instances = a_head(mode=mode).eval(), some_instances(9)
    choose(head, monkeypatch, [0, 3, 1, 1, 2, 0, 3, 2, 0])
    for stage in head.pyramid.stages:  # offsets that move something
        torch.nn.init.normal_(stage.offset1.weight, std=0.05)
        torch.nn.init.normal_(stage.offset2.weight, std=0.05)
    with torch.no_grad():
        context = head.context(pyramid(), [IMAGE, IMAGE])
        logits = head(context, instances)
        features = head.roi_features(context, instances)
        everything, _ = head.pyramid.every_size(features, context, instances)
    states = [SIZES.index(size) for size in logits.sizes.tolist()]
    assert head.last_counts == [states.count(k) for k in range(4)]
    for n, (k, mask) in enumerate(zip(states, logits.split())):
        torch.testing.assert_close(mask, everything[k][n], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("states", [[0, 0, 0], [2, 0, 1], [3, 1, 3], [1]])
def test_executed_macs_are_the_sum_of_the_chosen_costs(states, monkeypatch):
    head = a_head().eval()
    choose(head, monkeypatch, states)
    with torch.no_grad(), count_macs(head, head.uncounted_modules()) as counted:
        head(head.context(pyramid(), [IMAGE, IMAGE]), some_instances(len(states)))
    expected = sum(round(head.costs[k] * 1e9) for k in states)
    assert counted.total == head.last_macs == expected


def test_nobody_needs_a_level_nobody_projects_it(monkeypatch):
    head = a_head().eval()

    def never(*args):
        raise AssertionError("a level was projected that no RoI needs")

    for k in range(4):
        choose(head, monkeypatch, [k, 0, k])
        context = head.context(pyramid(), [IMAGE, IMAGE])
        with monkeypatch.context() as patch, torch.no_grad():
            for stage in head.pyramid.stages[k:]:
                patch.setattr(stage, "project", never)
            head(context, some_instances(3))


def test_inference_repeats_itself():
    head, instances, features = a_head().eval(), some_instances(6), pyramid()
    with torch.no_grad():
        first, second = (head(head.context(features, [IMAGE] * 2), instances) for _ in range(2))
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.sizes, second.sizes)


def test_rois_in_another_order_get_the_same_masks():
    head, instances, features = a_head(mode="size").eval(), some_instances(7), pyramid()
    turn = torch.randperm(7)
    with torch.no_grad():
        masks = head(head.context(features, [IMAGE] * 2), instances).split()
        turned = head(head.context(features, [IMAGE] * 2), instances.select(turn)).split()
    assert len({len(mask) for mask in masks}) > 1
    for n, mask in zip(turn.tolist(), turned):
        torch.testing.assert_close(mask, masks[n], rtol=1e-5, atol=1e-5)


def test_decode_gives_probabilities_in_order():
    head, instances = a_head(mode="size").eval(), some_instances(4)
    context = head.context(pyramid(), [IMAGE, IMAGE])
    with torch.no_grad():
        logits = head(context, instances)
        masks = head.decode(logits, instances, [IMAGE, IMAGE])
    assert isinstance(masks, RaggedMasks)
    assert torch.equal(masks.values, logits.values.sigmoid())
    assert [len(mask) for mask in masks.split()] == masks.sizes.tolist()


@pytest.mark.parametrize("switch_enabled", [True, False])
def test_no_instances(switch_enabled):
    head, nobody = a_head(), some_instances(0)
    head.switch_enabled = switch_enabled
    features = pyramid(requires_grad=True)
    _, losses = step(head, nobody, features)
    assert set(losses) == set(step(head, some_instances(2))[1])
    sum(losses.values()).backward()
    assert all(not p.grad.any() for p in [*head.parameters(), *features[:4]])

    head.eval()
    with torch.no_grad():
        masks = head.decode(head(head.context(pyramid(), [IMAGE] * 2), nobody), nobody)
    assert masks.values.numel() == masks.sizes.numel() == head.last_macs == 0


def test_phase_one_trains_all_sizes_and_no_switch():
    head = a_head()
    head.switch_enabled = False
    codes, losses = step(head, some_instances(3))
    assert codes.selection is None
    assert set(losses) == {"mask", "edge"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.pyramid.parameters())
    assert all(p.grad is None for p in head.selector.parameters())


def test_before_the_switch_is_trained_masks_are_large():
    head = a_head().eval()
    head.switch_enabled = False
    with torch.no_grad():
        head(head.context(pyramid(), [IMAGE, IMAGE]), some_instances(3))
    assert head.last_counts == [0, 0, 0, 3]


def test_phase_two_trains_everything():
    head, features = a_head(budget=1e-3), pyramid(requires_grad=True)
    _, losses = step(head, some_instances(4), features)
    assert set(losses) == {"mask", "edge", "budget", "entropy"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())
    assert all(f.grad.abs().sum() > 0 for f in features[:3])


@pytest.mark.parametrize("switch_input", ["roi_14", "p2_28", "p2_56"])
def test_switch_sends_no_gradient_into_the_pyramid(switch_input):
    head, features = a_head(budget=1e-3, switch_input=switch_input), pyramid(requires_grad=True)
    _, losses = step(head, some_instances(4), features)
    (losses["budget"] + losses["entropy"]).backward()
    assert all(f.grad is None for f in features)
    assert head.selector.switch.conv1.weight.grad.abs().sum() > 0


def test_only_the_chosen_exit_trains(monkeypatch):
    head = a_head(mode="fixed=1")
    _, losses = step(head, some_instances(3))
    assert set(losses) == {"mask", "edge"}
    sum(losses.values()).backward()
    trained = [bool(exit.mask.weight.grad.any()) for exit in head.pyramid.exits]
    assert trained == [False, True, False, False]


def test_auxiliary_loss_keeps_every_size_trained():
    head = a_head(mode="fixed=1", aux_all_stages=0.5)
    _, losses = step(head, some_instances(3))
    sum(losses.values()).backward()
    assert all(exit.mask.weight.grad.any() for exit in head.pyramid.exits)


def test_a_box_of_nan_costs_nothing_but_itself():
    head, instances, features = a_head(mode="fixed=2").eval(), some_instances(3), pyramid()
    with torch.no_grad():
        good = head(head.context(features, [IMAGE] * 2), instances).split()
        instances.boxes[1] = float("nan")
        bad = head(head.context(features, [IMAGE] * 2), instances).split()
    assert torch.equal(good[0], bad[0])
    assert torch.equal(good[2], bad[2])


def test_losses_stay_in_fp32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        codes, losses = step(a_head(), some_instances(3))
    assert {x.dtype for x in codes.masks} == {torch.bfloat16}
    assert {x.dtype for x in losses.values()} == {torch.float32}
    sum(losses.values()).backward()


def test_every_size_compiles_without_a_graph_break():
    head, instances = a_head().eval(), some_instances(2)
    context = head.context(pyramid(), [IMAGE, IMAGE])
    features = head.roi_features(context, instances)

    def every_size(features, *levels):
        fresh = MaskContext(list(levels), context.image_areas)
        return head.pyramid.every_size(features, fresh, instances)[0]

    compiled = torch.compile(every_size, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        actual = compiled(features, *context.features)
        expected = every_size(features, *context.features)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


class Branch(torch.nn.Module):
    """Features and boxes to masks, as torch.export takes it."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, levels, boxes, labels, batch):
        instances = Instances(boxes, labels, batch)
        context = self.head.context(levels, [IMAGE, IMAGE])
        return tuple(self.head.decode(self.head(context, instances), instances))


def test_inference_exports_for_any_number_of_rois():
    branch, levels, count = Branch(a_head(mode="size").eval()), pyramid()[:4], Dim.DYNAMIC
    few, many = (some_instances(n) for n in (4, 7))
    given = (levels, few.boxes, few.labels, few.batch)
    shapes = {"levels": [None] * 4, **{name: {0: count} for name in ("boxes", "labels", "batch")}}
    with torch.no_grad():
        exported = torch.export.export(branch, given, dynamic_shapes=shapes).module()
        for x in (few, many):
            given = (levels, x.boxes, x.labels, x.batch)
            got, expected = RaggedMasks(*exported(*given)), RaggedMasks(*branch(*given))
            for mask, wanted in zip(got.split(), expected.split(), strict=True):
                torch.testing.assert_close(mask, wanted, rtol=1e-5, atol=1e-5)


def test_default_budget_follows_the_channels():
    assert DynamicMaskHead(80).budget == pytest.approx(1.0, rel=1e-3)
    narrow = a_head()
    assert narrow.budget / narrow.costs[-1] == pytest.approx(1.0 / 1.3945)
    assert a_head(budget=0.5).budget == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "expected num_classes >= 1, got 0"),
        ({"channels": 20}, "expected channels a multiple of 8, got 20"),
        ({"switch_input": "p3"}, "expected switch_input one of .*, got 'p3'"),
    ],
)
def test_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=f"DynamicMaskHead: {message}"):
        DynamicMaskHead(**{"num_classes": 3, **options})
