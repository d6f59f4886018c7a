"""Detections: a fixed number of boxes that are the ones torchvision's dynamic filter keeps."""

import pytest
import torch
from torchvision.models.detection.roi_heads import RoIHeads

from dynamask.models.box_coder import BoxCoder
from dynamask.models.box_selection import BoxSelection
from dynamask.models.postprocess import PostProcess

CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
SIZES = [(100, 140), (128, 90)]
LIMITS = torch.tensor([(w, h, w, h) for h, w in SIZES], dtype=torch.float32)


def inputs(count: int, classes: int):
    corner = torch.rand(2, count, 2) * 60
    boxes = torch.cat([corner, corner + 2 + torch.rand(2, count, 2) * 60], 2)
    valid = torch.ones(2, count, dtype=torch.bool)
    valid[1, count // 2 :] = False
    boxes = boxes.masked_fill(~valid[..., None], 0)
    empty = torch.zeros(2, count)
    logits = torch.randn(2 * count, classes + 1) * 2
    deltas = torch.randn(2 * count, classes + 1, 4)
    return logits, deltas, BoxSelection(boxes, empty, empty.long(), valid)


def torchvision_filter(logits, deltas, proposals, score_threshold, detections):
    heads = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, None, score_threshold, 0.5, detections)
    there = proposals.valid.flatten()
    boxes = [box[valid] for box, valid in zip(proposals.boxes, proposals.valid)]
    out = heads.postprocess_detections(logits[there], deltas[there].flatten(1), boxes, SIZES)
    return list(zip(*out))


@pytest.mark.parametrize("score_threshold", [0.05, 0.4, 0.999])
@pytest.mark.parametrize("detections", [7, 400])
def test_valid_detections_are_torchvisions(score_threshold, detections):
    logits, deltas, proposals = inputs(80, 6)
    found = PostProcess(score_threshold, 0.5, detections)(logits, deltas, proposals, LIMITS, CODER)
    assert found.boxes.shape == (2, detections, 4)
    expected = torchvision_filter(logits, deltas, proposals, score_threshold, detections)
    for image, (boxes, scores, labels) in enumerate(expected):
        valid = found.valid[image]
        assert valid.sum() == len(boxes)
        torch.testing.assert_close(found.boxes[image, valid], boxes)
        torch.testing.assert_close(found.scores[image, valid], scores)
        assert torch.equal(found.groups[image, valid], labels - 1)


def test_candidates_bound_what_nms_sees():
    logits, deltas, proposals = inputs(80, 6)
    few = PostProcess(0.0, 0.5, 100, candidates=5)(logits, deltas, proposals, LIMITS, CODER)
    assert 0 < few.valid[0].sum() <= 5
    everything = PostProcess(0.0, 0.5, 100)(logits, deltas, proposals, LIMITS, CODER)
    assert torch.equal(few.boxes[:, 0], everything.boxes[:, 0])


def test_nan_comes_to_nothing():
    logits, deltas, proposals = inputs(10, 3)
    found = PostProcess()(logits * torch.nan, deltas, proposals, LIMITS, CODER)
    assert not found.valid.any()
    found = PostProcess()(logits, deltas * torch.nan, proposals, LIMITS, CODER)
    assert not found.valid.any()


def test_compiles_into_one_graph():
    logits, deltas, proposals = inputs(20, 3)
    post = PostProcess(0.05, 0.5, 10)

    class Step(torch.nn.Module):
        def forward(self, logits, deltas, boxes, valid):
            empty = torch.zeros_like(valid, dtype=torch.float32)
            chosen = BoxSelection(boxes, empty, empty.long(), valid)
            return post(logits, deltas, chosen, LIMITS, CODER)

    args = (logits, deltas, proposals.boxes, proposals.valid)
    compiled = torch.compile(Step(), fullgraph=True, backend="aot_eager")
    for actual, expected in zip(compiled(*args), Step()(*args)):
        torch.testing.assert_close(actual, expected)
