"""Proposals: a fixed number of boxes that are the ones a dynamic filter would keep."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms

from dynamask.models.anchors import Anchors
from dynamask.models.box_selection import clip, select_boxes
from dynamask.models.images import ImageBatch
from dynamask.models.proposals import RegionProposalNetwork

SIZES = [(150, 150), (120, 160)]


@pytest.fixture
def features():
    return [torch.randn(2, 8, *(-(-side // 2**k) for side in (160, 160))) for k in range(2, 7)]


@pytest.fixture
def images():
    return ImageBatch(torch.zeros(2, 3, 160, 160), SIZES, torch.tensor(SIZES).float())


def random_boxes(images: int, count: int) -> torch.Tensor:
    corner = torch.rand(images, count, 2) * 80
    return torch.cat([corner, corner + torch.rand(images, count, 2) * 40], 2)


def pair_of_rpns(candidates, kept):
    """Ours and torchvision's, with one head and torchvision's conventions."""
    head = RPNHead(8, 3)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    sizes, ratios = ((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5
    numbers = [{"training": pair[0], "testing": pair[1]} for pair in (candidates, kept)]
    theirs = TorchvisionRPN(
        AnchorGenerator(sizes, ratios), head, 0.7, 0.3, 256, 0.5, *numbers, nms_thresh=0.7
    )
    ours = RegionProposalNetwork(
        head,
        Anchors(convention="torchvision"),
        candidates=candidates,
        kept=kept,
        smooth_l1_beta=1 / 9,
    )
    return ours, theirs


@pytest.mark.parametrize("kept", [50, 3000], ids=["full", "padded"])
def test_valid_proposals_are_torchvisions(features, images, kept):
    ours, theirs = (rpn.eval() for rpn in pair_of_rpns((300, 200), (kept, kept)))
    with torch.no_grad():
        proposals, losses = ours(features, images)
        expected, _ = theirs(ImageList(images.pixels, images.sizes), dict(enumerate(features)))
    assert losses == {}
    assert proposals.boxes.shape == (2, kept, 4)
    for image, boxes in enumerate(expected):
        count = int(proposals.valid[image].sum())
        assert count == len(boxes)
        assert proposals.valid[image, :count].all()
        torch.testing.assert_close(proposals.boxes[image, :count], boxes)
        assert (proposals.boxes[image, count:] == 0).all()


def test_losses_are_torchvisions_on_the_same_sample(features, images):
    ours, theirs = pair_of_rpns((300, 200), (50, 50))
    targets = [{"boxes": boxes} for boxes in random_boxes(2, 3) + torch.tensor([0, 0, 30, 30])]
    targets[1] = {"boxes": torch.empty(0, 4)}
    torch.manual_seed(5)
    _, losses = ours(features, images, targets)
    torch.manual_seed(5)
    _, expected = theirs(ImageList(images.pixels, images.sizes), dict(enumerate(features)), targets)
    torch.testing.assert_close(losses["rpn_objectness"], expected["loss_objectness"])
    torch.testing.assert_close(losses["rpn_box"], expected["loss_rpn_box_reg"])


def test_exact_anchors_by_hand():
    anchors = Anchors((32, 64), (0.5, 1.0), strides=(8, 16))
    first, second = anchors([torch.empty(1, 1, 2, 3), torch.empty(1, 1, 1, 1)], torch.empty(1))
    assert first.shape == (12, 4)
    root = 2**0.5
    wide = torch.tensor([-16 * root, -8 * root, 16 * root, 8 * root])  # height / width = 1 / 2
    torch.testing.assert_close(first[0], wide)
    assert first[1].tolist() == [-16, -16, 16, 16]
    torch.testing.assert_close(first[2], wide + torch.tensor([8, 0, 8, 0]))  # the cell to the right
    torch.testing.assert_close(first[6], wide + torch.tensor([0, 8, 0, 8]))  # the row below
    assert second[1].tolist() == [-32, -32, 32, 32]


def test_p6_anchors_stand_64_pixels_apart():
    # 800 / 13 rows is 61 in torchvision's convention
    grid, pixels = torch.empty(1, 1, 13, 13), torch.empty(1, 3, 800, 800)
    for convention, stride in (("exact", 64), ("torchvision", 61)):
        boxes = Anchors((512,), (1.0,), convention=convention, strides=(64,))([grid], pixels)[0]
        assert boxes[1, 0] - boxes[0, 0] == stride


@pytest.mark.parametrize("kept", [5, 40, 200])
def test_fixed_selection_equals_the_dynamic_filter(kept):
    boxes, scores = random_boxes(3, 100), torch.randn(3, 100)
    groups = torch.randint(4, (3, 100))
    boxes[0, :20, 2:] = boxes[0, :20, :2]  # no area
    scores[1, 10:30] = -torch.inf
    scores[1, 30] = torch.nan
    boxes[2, 5] = torch.nan
    selection = select_boxes(boxes, scores, groups, min_size=1.0, iou_threshold=0.4, kept=kept)
    assert selection.boxes.shape == (3, kept, 4)
    for i in range(3):
        wide = ((boxes[i, :, 2:] - boxes[i, :, :2]) >= 1).all(1)
        there = (wide & scores[i].isfinite()).nonzero().flatten()
        keep = there[batched_nms(boxes[i, there], scores[i, there], groups[i, there], 0.4)][:kept]
        valid = selection.valid[i]
        assert valid.sum() == len(keep)
        assert torch.equal(selection.boxes[i, valid], boxes[i, keep])
        assert torch.equal(selection.scores[i, valid], scores[i, keep])
        assert torch.equal(selection.groups[i, valid], groups[i, keep])
        assert (selection.boxes[i, ~valid] == 0).all()


def test_no_box_at_all_is_no_error():
    nothing = torch.full((2, 10), -torch.inf)
    selection = select_boxes(
        random_boxes(2, 10),
        nothing,
        torch.zeros(2, 10, dtype=torch.int64),
        min_size=0.0,
        iou_threshold=0.5,
        kept=4,
    )
    assert not selection.valid.any()
    assert selection.boxes.shape == (2, 4, 4)


def test_clip_by_hand():
    boxes = torch.tensor([[[-5.0, 3.0, 20.0, 50.0]]])
    assert clip(boxes, torch.tensor([[16.0, 32.0, 16.0, 32.0]])).tolist() == [[[0, 3, 16, 32]]]


def test_unknown_convention():
    with pytest.raises(ValueError, match="anchors: expected exact or torchvision, got 'mmdet'"):
        Anchors(convention="mmdet")
