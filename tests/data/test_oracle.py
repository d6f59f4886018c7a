import pytest
import torch

from dynamask import rle
from dynamask.data.oracle import needed_size, oracle_iou
from dynamask.ops import Polygons


def rectangle(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def comb(teeth, side=100):
    """A block of 2 * teeth stripes, every other one missing."""
    width = side / (2 * teeth)
    return [
        ring
        for k in range(teeth)
        for ring in rectangle(2 * k * width, 0, (2 * k + 1) * width, side)
    ]


def measure(outline, sizes=(14, 28, 56, 112), side=100):
    bitmap = torch.zeros(side, side, dtype=torch.uint8)
    for x0, y0, x1, _, _, y1, *_ in outline:
        bitmap[round(y0) : round(y1), round(x0) : round(x1)] = 1
    x, y, width, height = rle.to_bbox(rle.encode(bitmap))
    box = torch.tensor([[x, y, x + width, y + height]])
    return oracle_iou(Polygons.of([outline]), [rle.encode(bitmap)], box, sizes)


def test_a_full_box_needs_nothing():
    # pasting rounds the corners off
    assert measure(rectangle(10, 20, 80, 70)).min() > 0.99


def test_stripes_finer_than_the_grid_are_lost():
    iou = measure(comb(25))[0]
    assert iou[0] < 0.6
    assert iou[3] > 0.8
    assert (iou[1:] >= iou[:-1]).all()


def test_needed_size_is_the_smallest_that_is_good_enough():
    iou = torch.tensor([[0.95, 0.97, 0.98, 0.99], [0.5, 0.8, 0.96, 0.97], [0.1, 0.2, 0.3, 0.9]])
    assert needed_size(iou).tolist() == [0, 2, 3]
    assert needed_size(iou, tolerance=0.0).tolist() == [3, 3, 3]
    assert needed_size(iou, tolerance=0.2).tolist() == [0, 1, 3]


def test_several_instances_and_none():
    outlines = Polygons.of([rectangle(0, 0, 50, 50), rectangle(20, 20, 60, 40)])
    bitmaps = torch.zeros(2, 100, 100, dtype=torch.uint8)
    bitmaps[0, :50, :50] = 1
    bitmaps[1, 20:40, 20:40] = 1
    masks = [rle.encode(bitmap) for bitmap in bitmaps]
    boxes = torch.tensor([[0.0, 0, 50, 50], [20, 20, 60, 40]])
    iou = oracle_iou(outlines, masks, boxes, (14,)).flatten().tolist()
    assert iou == pytest.approx([1.0, 0.5], abs=0.005)
    assert oracle_iou(Polygons.of([]), [], torch.empty(0, 4)).shape == (0, 4)
