"""A tensor on another device than its fellows is refused by name, before any kernel reads it."""

import pytest
import torch

from dynamask import ops

pytestmark = pytest.mark.cpu_only  # about checks before any kernel

BOXES = torch.tensor([[1.0, 1.0, 5.0, 5.0]])
LABELS = torch.zeros(1, dtype=torch.int64)
MASKS = torch.ones(1, 7, 7)
MAPS = torch.ones(1, 4, 8, 8)
ROIS = torch.tensor([[0.0, 1.0, 1.0, 5.0, 5.0]])
OUTLINES = ops.Polygons.of([[[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]])

CALLS = {
    "deform_conv2d": (
        lambda weight: ops.deform_conv2d(MAPS, torch.zeros(1, 2, 8, 8), weight),
        torch.ones(2, 4, 1, 1),
        "weight",
    ),
    "nms": (lambda scores: ops.nms(BOXES, scores, 0.5), torch.ones(1), "scores"),
    "batched_nms": (lambda idxs: ops.batched_nms(BOXES, torch.ones(1), idxs, 0.5), LABELS, "idxs"),
    "class_logits": (
        lambda labels: ops.class_logits(MAPS, torch.ones(3, 4), None, labels),
        LABELS,
        "labels",
    ),
    "mask_edge_loss": (lambda t: ops.mask_edge_loss(MASKS, t), MASKS, "mask_targets"),
    "mask_targets of bitmaps": (
        lambda masks: ops.mask_targets(masks, BOXES),
        MASKS.bool(),
        "masks",
    ),
    "mask_targets of outlines": (
        lambda vertices: ops.mask_targets(OUTLINES._replace(vertices=vertices), BOXES),
        OUTLINES.vertices,
        "vertices",
    ),
    "mask_targets for an index": (
        lambda index: ops.mask_targets(MASKS.bool(), BOXES, index),
        LABELS,
        "index",
    ),
    "edge_targets": (lambda other: ops.edge_targets([MASKS, other]), MASKS, "masks"),
    "paste_masks": (lambda boxes: ops.paste_masks(MASKS, boxes, (9, 9)), BOXES, "boxes"),
    "encode_masks": (lambda boxes: ops.encode_masks(MASKS, boxes, (9, 9)), BOXES, "boxes"),
    "roi_align": (lambda boxes: ops.roi_align(MAPS, boxes, 2), ROIS, "boxes"),
    "roi_align of a list": (lambda boxes: ops.roi_align(MAPS, [boxes], 2), BOXES, r"boxes\[0\]"),
    "multiscale_roi_align": (
        lambda other: ops.multiscale_roi_align([MAPS, other], ROIS, 2, [0.5, 0.25]),
        MAPS,
        r"features\[1\]",
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_another_device(call):
    run, tensor, name = CALLS[call]
    run(tensor)  # all on one device is fine
    with pytest.raises(ValueError, match=rf"expected {name} on cpu, got meta"):
        run(tensor.to("meta"))


def test_winograd_is_for_the_cpu():
    weight = ops.winograd_conv2d_weight(torch.ones(16, 16, 3, 3))
    with pytest.raises(ValueError, match="expected input on cpu, got meta"):
        ops.winograd_conv2d(torch.ones(1, 16, 8, 8, device="meta"), weight, torch.zeros(16))


def test_outlines_move():
    moved = OUTLINES.to("meta")
    assert {part.device.type for part in moved} == {"meta"}
    assert [part.shape for part in moved] == [part.shape for part in OUTLINES]
