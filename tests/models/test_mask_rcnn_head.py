import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from dynamask.models.instances import Instances
from dynamask.models.macs import measure_mask_macs
from dynamask.models.mask_rcnn_head import MaskRCNNHead
from dynamask.ops import Polygons

SIZES = [(128, 128), (100, 120)]


def pyramid(channels: int = 16) -> list[torch.Tensor]:
    return [torch.randn(2, channels, 128 // 2**k, 128 // 2**k) for k in range(2, 7)]


def instances() -> Instances:
    boxes = torch.tensor([[10.0, 20, 60, 90], [0, 0, 128, 128], [5, 5, 15, 12]])
    return Instances(boxes, torch.tensor([2, 0, 2]), torch.tensor([0, 1, 1]))


@pytest.mark.parametrize("size", [14, 28, 56, 112])
def test_masks_have_the_asked_size(size):
    head = MaskRCNNHead(16, 3, size=size, channels=8)
    codes = head(head.context(pyramid(), SIZES), instances())
    masks = head.decode(codes, instances(), SIZES)
    assert masks.sizes.tolist() == [size] * 3
    assert masks.values.shape == (3 * size * size,)
    assert ((masks.values > 0) & (masks.values < 1)).all()


def test_picks_the_channel_of_the_label():
    head = MaskRCNNHead(16, 3, channels=8)
    levels = pyramid()
    codes = head(head.context(levels, SIZES), instances())
    everything = all_class_logits(head, levels)
    torch.testing.assert_close(codes, everything[torch.arange(3), instances().labels])


def all_class_logits(head: MaskRCNNHead, levels: list[torch.Tensor]) -> torch.Tensor:
    caught = []
    hook = head.upsample.register_forward_hook(lambda *args: caught.append(args[-1]))
    head(head.context(levels, SIZES), instances())
    hook.remove()
    return F.conv2d(F.relu(caught[0]), head.logits.weight[:, :, None, None], head.logits.bias)


def test_learns_a_mask():
    torch.manual_seed(1)
    head = MaskRCNNHead(16, 3, size=14, channels=16)
    levels, rois = pyramid(), instances().select(torch.tensor([0]))
    outline = Polygons.of([[[10, 20, 35, 20, 35, 90, 10, 90]]])  # the left half of the box
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(60):
        context = head.context(levels, SIZES)
        codes = head(context, rois)
        losses = head.loss(codes, context, rois, (outline, torch.tensor([0])))
        optimiser.zero_grad()
        losses["mask"].backward()
        optimiser.step()
    mask = head.decode(codes, rois, SIZES).split()[0]
    assert losses["mask"] < 0.2
    assert mask[:, :6].mean() > 0.8
    assert mask[:, 8:].mean() < 0.2


def test_no_instances_means_a_zero_loss_that_hangs_on_the_graph():
    head = MaskRCNNHead(16, 3, channels=8)
    nobody = instances().select(torch.zeros(3, dtype=torch.bool))
    context = head.context(pyramid(), SIZES)
    codes = head(context, nobody)
    target = Polygons.of([]), torch.empty(0, dtype=torch.int64)
    loss = head.loss(codes, context, nobody, target)["mask"]
    assert loss == 0
    loss.backward()
    assert all(parameter.grad.eq(0).all() for parameter in head.parameters())
    assert head.decode(codes, nobody, SIZES).values.shape == (0,)


@pytest.mark.parametrize(("size", "giga"), [(28, 0.530), (56, 2.119), (112, 8.478)])
def test_multiply_accumulates_are_the_papers(size, giga):
    head = MaskRCNNHead(256, 80, size=size)
    other_classes = 79 * 256 * size**2 / 1e9  # the papers count the logits of all 80
    assert head.costs[0] + other_classes == pytest.approx(giga, abs=5e-4)


def test_counts_what_it_runs():
    head = MaskRCNNHead(16, 3, channels=8)
    head(head.context(pyramid(), SIZES), instances())
    assert head.last_counts == [3]
    assert head.last_macs == 3 * head.mask_macs() == 3 * measure_mask_macs(head)[0]


def test_starts_as_torchvisions_predictor_does():
    theirs, ours = MaskRCNNPredictor(64, 64, 80), MaskRCNNHead(64, 80, channels=64)
    for a, b in ((theirs.conv5_mask, ours.upsample), (theirs.mask_fcn_logits, ours.logits)):
        assert a.weight.numel() == b.weight.numel()
        assert a.weight.std().item() == pytest.approx(b.weight.std().item(), rel=0.05)
        assert (b.bias == 0).all()


def test_odd_size():
    with pytest.raises(ValueError, match="mask_rcnn_head: expected an even size, got 27"):
        MaskRCNNHead(16, 3, size=27)
