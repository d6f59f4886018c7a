"""Training of the box head: which RoIs the losses see, and that they are torchvision's."""

import pytest
import torch
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import MultiScaleRoIAlign

from dynamask.models.box_head import BoxHead
from dynamask.models.box_selection import BoxSelection

CHANNELS, CLASSES = 8, 4
SIZES = [(128, 128), (128, 128)]


def boxes_near(boxes: torch.Tensor, count: int) -> torch.Tensor:
    chosen = boxes[torch.randint(len(boxes), (count,))]
    return chosen + torch.randn(count, 4) * 4


@pytest.fixture
def targets():
    boxes = torch.tensor([[10.0, 10, 60, 50], [70, 20, 120, 110], [5, 80, 40, 125]])
    labels = torch.tensor([0, 3, 1])
    return [{"boxes": boxes, "labels": labels}, {"boxes": boxes[1:2], "labels": labels[1:2]}]


@pytest.fixture
def proposals(targets):
    boxes = torch.stack([boxes_near(target["boxes"], 60) for target in targets])
    scores = torch.zeros(2, 60)
    return BoxSelection(boxes, scores, scores.long(), torch.ones(2, 60, dtype=torch.bool))


@pytest.fixture
def features():
    return [torch.randn(2, CHANNELS, 128 // 2**k, 128 // 2**k) for k in range(2, 7)]


def box_head(**options) -> BoxHead:
    head = BoxHead(CHANNELS, CLASSES, hidden=16, samples=32, **options)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return head


def test_losses_are_torchvisions_on_the_same_sample(features, proposals, targets):
    ours = box_head(sampling_ratio=2, aligned=False, smooth_l1_beta=1 / 9)
    theirs = RoIHeads(
        MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        TwoMLPHead(CHANNELS * 49, 16),
        FastRCNNPredictor(16, CLASSES + 1),
        *(0.5, 0.5, 32, 0.25, None),
        *(0.05, 0.5, 100),
    )
    theirs.box_head.load_state_dict(ours.mlp.state_dict())
    theirs.box_predictor.load_state_dict(ours.predictor.state_dict())

    torch.manual_seed(3)
    rois = ours.sample(proposals, targets)
    losses = ours.loss(features, rois)
    torch.manual_seed(3)
    with_background = [{**target, "labels": target["labels"] + 1} for target in targets]
    boxes, index, labels, wanted = theirs.select_training_samples(
        list(proposals.boxes), with_background
    )
    pooled = theirs.box_roi_pool({str(k): f for k, f in enumerate(features)}, boxes, SIZES)
    expected = fastrcnn_loss(*theirs.box_predictor(theirs.box_head(pooled)), labels, wanted)

    assert torch.equal(rois.rois[:, 1:], torch.cat(boxes))
    assert torch.equal(rois.classes, torch.cat(labels))
    positive = rois.classes > 0
    of_batch = torch.cat([index[0], index[1] + len(targets[0]["boxes"])])
    assert torch.equal(rois.index[positive], of_batch[positive])
    torch.testing.assert_close(losses["class"], expected[0])
    torch.testing.assert_close(losses["box"], expected[1])


def test_what_is_not_valid_is_not_drawn(proposals, targets):
    proposals.valid[:, 10:] = False
    proposals.boxes[:, 10:] = 0
    rois = box_head().sample(proposals, targets)
    assert (rois.rois[:, 3] > rois.rois[:, 1]).all()
    assert all(count <= 10 + 3 for count in rois.counts)


def test_positive_rois_know_their_object_and_their_label(proposals, targets):
    rois = box_head().sample(proposals, targets)
    instances, index = rois.positive(limit=128)
    truth = torch.cat([target["labels"] for target in targets])
    assert torch.equal(instances.labels, truth[index])
    assert torch.equal(instances.batch, (index >= 3).long())


def test_at_most_so_many_positive_rois_per_image(proposals, targets):
    instances, index = box_head().sample(proposals, targets).positive(limit=2)
    assert instances.batch.tolist() == [0, 0, 1, 1]
    assert len(index) == 4


def test_without_a_box_all_is_background(features, proposals):
    nothing = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)}
    head = box_head()
    rois = head.sample(proposals, [nothing, nothing])
    assert (rois.classes == 0).all()
    losses = head.loss(features, rois)
    assert losses["box"] == 0
    assert losses["class"] > 0
    sum(losses.values()).backward()


def test_without_any_roi_losses_are_zero(features, proposals):
    nothing = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)}
    proposals.valid[:] = False
    head = box_head()
    losses = head.loss(features, head.sample(proposals, [nothing, nothing]))
    assert sum(losses.values()) == 0
    sum(losses.values()).backward()


def test_weight_of_the_losses(features, proposals, targets):
    once, twice = box_head(), box_head(loss_weight=2.0)
    twice.load_state_dict(once.state_dict())
    rois = once.sample(proposals, targets)
    for name, loss in once.loss(features, rois).items():
        torch.testing.assert_close(twice.loss(features, rois)[name], 2 * loss)
