import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from dynamask import rle
from dynamask.data import CocoDataset, DataError, open_dataset, same_classes


def filled(polygons, image_size):
    """Masks of outlines, painted by Pillow as an independent witness."""
    from PIL import ImageDraw

    rings, starts = polygons.rings.tolist(), polygons.instances.tolist()
    masks = []
    for first, last in pairwise(starts):
        picture = Image.new("L", (image_size[1] * 4, image_size[0] * 4))
        for r in range(first, last):
            corners = polygons.vertices[rings[r] : rings[r + 1]] * 4 - 0.5
            ImageDraw.Draw(picture).polygon(corners.flatten().tolist(), fill=1)
        masks.append(np.asarray(picture)[2::4, 2::4])
    return masks


def test_by_hand(content, write):
    dataset = open_dataset(write(content), "train")
    assert len(dataset) == 2
    assert dataset.classes == ["dog", "cat"]
    assert dataset.category_ids == [3, 90]
    assert dataset.image_ids == [7, 3]
    image, target = dataset[0]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 40, 60)
    assert image.unique().tolist() == [50]
    assert target["boxes"].tolist() == [[10, 5, 30, 15], [10, 0, 15, 40]]
    assert target["labels"].tolist() == [1, 0]
    assert target["image_id"] == 7
    assert target["original_size"] == (40, 60)
    assert target["polygons"].instances.tolist()[:2] == [0, 1]
    assert target["polygons"].vertices[:4].tolist() == [[10, 5], [30, 5], [30, 15], [10, 15]]


def test_run_lengths_become_outlines_of_the_same_pixels(content, write):
    _, target = open_dataset(write(content), "train")[0]
    mask = filled(target["polygons"], (40, 60))[1]
    assert mask[:, 10:15].all()
    assert mask.sum() == 200


def test_image_without_annotations(content, write):
    image, target = open_dataset(write(content), "train")[1]
    assert image.unique().tolist() == [100]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["polygons"].instances.tolist() == [0]


def test_crowd_is_ground_truth_but_no_target(content, write):
    dataset = open_dataset(write(content), "train")
    assert dataset[0][1]["labels"].shape == (2,)
    assert [a["iscrowd"] for a in dataset.ground_truth["annotations"]] == [0, 0, 1]


def test_ground_truth_goes_through_json_and_pycocotools(content, write):
    coco_mask = pytest.importorskip("pycocotools.mask")
    truth = json.loads(json.dumps(open_dataset(write(content), "train").ground_truth))
    assert coco_mask.area(truth["annotations"][1]["segmentation"]) == 200


def test_absent_fields_are_filled_in(content, write):
    for annotation in content["annotations"]:
        for key in ("bbox", "area", "iscrowd"):
            del annotation[key]
    annotations = open_dataset(write(content), "train").ground_truth["annotations"]
    assert annotations[0]["bbox"] == [10, 5, 20, 10]
    assert annotations[1]["bbox"] == [10, 0, 5, 40]
    assert [a["area"] for a in annotations] == [200, 200, 200]
    assert [a["iscrowd"] for a in annotations] == [0, 0, 0]


def test_annotation_id_0_is_counted_from_1(content, write):
    content["annotations"][0]["id"] = 0
    annotations = open_dataset(write(content), "train").ground_truth["annotations"]
    assert [a["id"] for a in annotations] == [1, 2, 3]


def test_boxes_are_cut_at_the_border(content, write):
    content["annotations"][0]["bbox"] = [-5, 30, 20, 20.5]
    _, target = open_dataset(write(content), "train")[0]
    assert target["boxes"][0].tolist() == [0, 30, 15, 40]


@pytest.mark.parametrize("far", [1e8, 1e12, -1e9])
def test_far_polygons_are_clipped(content, write, far):
    content["annotations"][0]["segmentation"] = [[10, 5, 30, 5, 30, far, 10, far]]
    dataset = open_dataset(write(content), "train")
    _, target = dataset[0]
    assert target["polygons"].vertices.abs().max() <= 120
    mask = filled(target["polygons"], (40, 60))[0]
    rows = slice(5, None) if far > 0 else slice(None, 5)
    assert mask[rows, 10:30].all()
    assert mask.sum() == mask[rows, 10:30].size
    (ring,) = dataset.ground_truth["annotations"][0]["segmentation"]
    assert max(map(abs, ring)) <= 120


def layouts():
    return {
        "coco": ("annotations/instances_{}2017.json", "{}2017"),
        "coco 2014": ("annotations/instances_{}2014.json", "images/{}2014"),
        "plain": ("annotations/{}.json", "images/{}"),
        "one folder": ("annotations/{}.json", "images"),
        "roboflow": ("{}/_annotations.coco.json", "{}"),
    }


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", layouts())
def test_finds_layouts(content, write, tmp_path, name, split):
    made = write(content, split)
    annotations, images = (tmp_path / "new" / part.format(split) for part in layouts()[name])
    annotations.parent.mkdir(parents=True)
    shutil.move(made / "annotations" / f"{split}.json", annotations)
    images.mkdir(parents=True, exist_ok=True)
    for file in (made / "images" / split).iterdir():
        shutil.move(file, images)
    dataset = open_dataset(tmp_path / "new", split)
    assert dataset.image_path(0) == images / "a.png"
    assert dataset[1][0].unique().tolist() == [100]


def test_roboflow_calls_val_valid(content, write, tmp_path):
    made = write(content, "val")
    shutil.move(made / "images" / "val", tmp_path / "new" / "valid")
    shutil.move(made / "annotations" / "val.json", tmp_path / "new/valid/_annotations.coco.json")
    assert len(open_dataset(tmp_path / "new", "val")) == 2


def test_explicit_pair(content, write):
    folder = write(content)
    dataset = open_dataset(
        folder / "annotations/train.json", "train", images=folder / "images/train"
    )
    assert dataset.image_path(0).is_file()


@pytest.mark.parametrize("shift", [0, 1, 89, 10**6])
def test_any_category_ids_come_back(content, write, shift):
    for category in content["categories"]:
        category["id"] = category["id"] * 3 + shift
    for annotation in content["annotations"]:
        annotation["category_id"] = annotation["category_id"] * 3 + shift
    dataset = open_dataset(write(content), "train")
    labels = dataset[0][1]["labels"].tolist()
    assert [dataset.category_ids[k] for k in labels] == [270 + shift, 9 + shift]
    assert [dataset.classes[k] for k in labels] == ["cat", "dog"]


def test_subset(content, write):
    dataset = open_dataset(write(content), "train")
    part = dataset.subset([1])
    assert part.image_ids == [3]
    assert part.ground_truth["annotations"] == []
    assert part.classes == dataset.classes
    assert len(dataset) == 2
    both = dataset.subset([1, 0])
    assert both[1][1]["image_id"] == 7
    assert len(both[1][1]["labels"]) == 2


def test_same_classes(content, write):
    folder = write(content)
    write(content, "val")
    train, val = open_dataset(folder, "train"), open_dataset(folder, "val")
    same_classes(train, val)
    content["categories"].append({"id": 1, "name": "emu"})
    write(content, "val")
    with pytest.raises(DataError, match=r"different categories\n.*: none\n.*second: emu \(1\)"):
        same_classes(train, open_dataset(folder, "val"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_images(coco_mini, split):
    dataset = open_dataset(coco_mini, split)
    assert len(dataset.classes) == 80
    assert dataset.category_ids[-1] == 90
    assert dataset.skipped == []
    for index in range(0, len(dataset), 10):
        image, target = dataset[index]
        assert image.shape == (3, *target["original_size"])
        boxes = target["boxes"]
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert len(target["polygons"].instances) == len(boxes) + 1
    crowd = [a for a in dataset.ground_truth["annotations"] if a["iscrowd"]]
    assert len(crowd) == {"train": 8, "val": 5}[split]
    assert all(rle.area(a["segmentation"]) > 0 for a in crowd)


def test_one_dataset_is_one_fingerprint(content, write):
    folder = write(content)
    first = open_dataset(folder, "train").fingerprint
    same = CocoDataset(folder / "annotations/train.json", folder / "images/train")
    assert same.fingerprint == first
    content["annotations"].pop()
    write(content)
    assert open_dataset(folder, "train").fingerprint != first
