import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dynamask import rle
from dynamask.drawing import MASK_SIZE_COLORS
from dynamask.ops import RaggedMasks
from dynamask.prediction import Prediction

coco_mask = pytest.importorskip("pycocotools.mask")


def prediction(height=40, width=60):
    """A full square, a left half and a right half, on three sizes of grid."""
    left, right = torch.zeros(28, 28), torch.zeros(112, 112)
    left[:, :14] = 1
    right[:, 56:] = 1
    return Prediction(
        boxes=torch.tensor([[4.0, 4, 12, 12], [20, 10, 40, 30], [30, 0, 60, 40]]),
        scores=torch.tensor([0.9, 0.8, 0.3]),
        labels=torch.tensor([1, 0, 1]),
        masks=RaggedMasks.of([torch.ones(14, 14), left, right]),
        image_size=(height, width),
        classes=("cat", "dog"),
    )


def test_by_hand():
    found = prediction()
    assert len(found) == 3
    assert found.mask_size.tolist() == [14, 28, 112]
    assert found.names == ["dog", "cat", "dog"]
    dense = found.dense()
    assert dense.shape == (3, 40, 60)
    assert dense[0].nonzero().amin(0).tolist() == [4, 4]
    assert dense[0].sum() == 64
    assert dense[1].sum() == 10 * 20
    assert dense[1][:, 20:30].any()
    assert not dense[1][:, 30:].any()


@pytest.mark.filterwarnings("ignore:__array__")
def test_rle_is_the_dense_mask():
    found = prediction()
    for run_lengths, mask in zip(found.rle(), found.dense()):
        assert torch.equal(torch.from_numpy(coco_mask.decode(run_lengths)).bool(), mask)


def test_polygons_fill_to_the_same_pixels():
    found = prediction()
    for rings, run_lengths in zip(found.polygons(), found.rle()):
        assert rle.from_polygons(rings, 40, 60) == run_lengths


def test_select_takes_positions_and_masks():
    found = prediction()
    by_position = found.select(torch.tensor([2, 0]))
    assert by_position.scores.tolist() == pytest.approx([0.3, 0.9])
    assert by_position.mask_size.tolist() == [112, 14]
    assert torch.equal(by_position.dense(), found.dense()[[2, 0]])
    by_score = found.select(found.scores > 0.5)
    assert by_score.names == ["dog", "cat"]
    assert torch.equal(by_score.masks.values, found.masks.values[: 14 * 14 + 28 * 28])


def test_resized_scales_boxes_and_leaves_masks():
    found = prediction().resized(80, 60)
    assert found.image_size == (80, 60)
    assert found.boxes[1].tolist() == [20, 20, 40, 60]
    assert found.masks is not None
    assert found.dense().shape == (3, 80, 60)


def test_to_coco_goes_through_json():
    entries = json.loads(json.dumps(prediction().to_coco(image_id=7, category_ids=[18, 90])))
    assert [entry["category_id"] for entry in entries] == [90, 18, 90]
    assert {entry["image_id"] for entry in entries} == {7}
    assert entries[1]["bbox"] == [20, 10, 20, 20]
    assert entries[2]["mask_size"] == 112
    assert coco_mask.area(entries[0]["segmentation"]) == 64


def test_to_supervision_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        prediction().to_supervision()


def test_to_supervision():
    pytest.importorskip("supervision")
    found = prediction()
    detections = found.to_supervision()
    assert len(detections) == 3
    assert detections.mask.dtype == bool
    assert np.array_equal(detections.mask, found.dense().numpy())
    assert detections.data["class_name"].tolist() == ["dog", "cat", "dog"]
    assert detections[detections.data["mask_size"] > 14].class_id.tolist() == [0, 1]


def test_nothing_found():
    none = Prediction(
        boxes=torch.empty(0, 4),
        scores=torch.empty(0),
        labels=torch.empty(0, dtype=torch.int64),
        masks=RaggedMasks.of([]),
        image_size=(8, 9),
    )
    assert len(none) == 0
    assert none.rle() == []
    assert none.to_coco(1, []) == []
    assert none.dense().shape == (0, 8, 9)
    assert len(none.select(none.scores > 0.5)) == 0
    assert none.plot(torch.zeros(3, 8, 9)).size == (9, 8)


@pytest.mark.parametrize(
    "image",
    [
        torch.full((3, 40, 60), 128, dtype=torch.uint8),
        torch.full((3, 40, 60), 0.5),
        np.full((40, 60, 3), 128, np.uint8),
        Image.new("L", (60, 40), 128),
    ],
    ids=["uint8", "float", "array", "pillow"],
)
def test_plot_colours_masks_by_size(image):
    picture = prediction().plot(image, labels=False, legend=False)
    assert picture.size == (60, 40)
    assert picture.getpixel((4, 4)) == MASK_SIZE_COLORS[14]
    assert picture.getpixel((20, 10)) == MASK_SIZE_COLORS[28]
    assert picture.getpixel((59, 39)) == MASK_SIZE_COLORS[112]
    assert picture.getpixel((15, 2)) == (128, 128, 128)


@pytest.mark.parametrize("color_by", ["mask_size", "class", "instance"])
def test_plot_draws_larger_on_demand(color_by):
    picture = prediction().plot(torch.zeros(3, 40, 60), color_by, scale=4)
    assert picture.size == (240, 160)
    assert np.asarray(picture).any()


def test_plot_survives_boxes_outside_and_not_finite():
    found = prediction()
    found.boxes = torch.tensor([[-50.0, -50, -10, -10], [50, 30, 90, 80], [0, float("nan"), 1, 1]])
    assert found.plot(torch.zeros(3, 40, 60)).size == (60, 40)


def test_says_what_is_wrong():
    found = prediction()
    with pytest.raises(ValueError, match="expected 3 scores, got 2"):
        Prediction(found.boxes, found.scores[:2], found.labels, found.masks, (40, 60))
    with pytest.raises(ValueError, match="plot: expected color_by mask_size"):
        found.plot(torch.zeros(3, 40, 60), "size")
    with pytest.raises(ValueError, match="expected an image of 40 x 60 pixels, got 60 x 40"):
        found.plot(torch.zeros(3, 60, 40))
    with pytest.raises(ValueError, match=r"expected an image \[3, H, W\], got \[40, 60\]"):
        found.plot(torch.zeros(40, 60))
