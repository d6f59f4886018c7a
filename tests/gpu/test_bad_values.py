"""What the CPU refuses by name cannot be looked at without waiting: a GPU answers with zeros."""

import pytest
import torch

from dynamask import ops

pytestmark = pytest.mark.gpu
ROIS = [[0.0, 1, 1, 9, 9], [7.0, 1, 1, 9, 9], [-1.0, 1, 1, 9, 9], [float("nan"), 1, 1, 9, 9]]


def assert_first_row_only(out):
    assert out[0].any()
    assert not out[1:].any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_box_on_no_image(layout):
    maps = [torch.rand(2, 8, s, s).contiguous(memory_format=layout) for s in (16, 8)]
    rois = torch.tensor(ROIS)
    assert_first_row_only(ops.roi_align(maps[0], rois, 3, 1.0, 2))
    assert_first_row_only(ops.multiscale_roi_align(maps, rois, 3, [1.0, 0.5], 2))


def test_a_label_of_no_class():
    labels = torch.tensor([1, 5, -1, 2**40])
    assert_first_row_only(ops.class_logits(torch.rand(4, 8, 7, 7), torch.rand(5, 8), None, labels))
    losses, _ = ops.mask_edge_loss(torch.rand(4, 5, 7, 7), torch.rand(4, 7, 7), labels=labels)
    assert_first_row_only(losses)


def test_an_index_of_no_mask():
    index, boxes = torch.tensor([0, 2, -1, 2**40]), torch.tensor([[0.0, 0, 8, 8]] * 4)
    outlines = ops.Polygons.of([[[0, 0, 8, 0, 8, 8, 0, 8]]] * 2)
    for masks in (torch.ones(2, 8, 8).bool(), outlines):
        for target in ops.mask_targets(masks, boxes, index):
            assert_first_row_only(target)
