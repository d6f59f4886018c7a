import json

import pytest
import torch
from PIL import Image

from dynamask import rle
from dynamask.data import CocoDataset
from dynamask.evaluation.oracle import oracle

SIDE = 100


def rectangle(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def comb(teeth):
    """A block of 2 * teeth stripes, every other one missing."""
    width = SIDE / (2 * teeth)
    return [rectangle(2 * k * width, 0, (2 * k + 1) * width, SIDE) for k in range(teeth)]


@pytest.fixture
def measure(tmp_path):
    """IoU per outline [G, 4] at 14, 28, 56 and 112; masks are bitmaps, given as run lengths."""

    def measure(*outlines):
        annotations = []
        for number, outline in enumerate(outlines):
            bitmap = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
            for x0, y0, x1, _, _, y1, *_ in outline:
                bitmap[round(y0) : round(y1), round(x0) : round(x1)] = 1
            counts = rle.encode(bitmap)["counts"].decode()
            segmentation = {"size": [SIDE, SIDE], "counts": counts}
            entry = {"id": number + 1, "image_id": 1, "category_id": 1}
            annotations.append({**entry, "segmentation": segmentation})
        image = {"id": 1, "file_name": "a.png", "height": SIDE, "width": SIDE}
        categories = [{"id": 1, "name": "x"}]
        content = {"images": [image], "annotations": annotations, "categories": categories}
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "a.png")
        (tmp_path / "val.json").write_text(json.dumps(content))
        return oracle(CocoDataset(tmp_path / "val.json", tmp_path, "val"), (14, 28, 56, 112))

    return measure


def test_a_full_box_needs_nothing(measure):
    # pasting rounds the corners off
    assert measure([rectangle(10, 20, 80, 70)]).iou.min() > 0.99


def test_stripes_finer_than_the_grid_are_lost(measure):
    (iou,) = measure(comb(25)).iou
    assert iou[0] < 0.6
    assert iou[3] > 0.8
    assert (iou[1:] >= iou[:-1]).all()


def test_needed_is_the_smallest_that_is_good_enough(measure):
    found = measure([rectangle(10, 20, 80, 70)], comb(5), comb(25))
    plain, coarse, fine = found.needed(0.1).tolist()
    assert plain == 0
    assert 0 < coarse < fine
    assert len(found.picked(found.needed(0.1))) == 3


def test_no_objects(measure):
    assert measure().iou.shape == (0, 4)
