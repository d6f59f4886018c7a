import json
import os
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from dynamask import rle
from dynamask.data import make_shapes, open_dataset
from dynamask.data.outlines import CLASSES
from dynamask.data.scenes import cover, make_scene
from dynamask.data.shapes import PRESETS, shapes_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_shapes("shapes-mini", tmp_path_factory.mktemp("shapes") / "mini", train=8, val=3)


def annotations(folder, split="train"):
    return json.loads((folder / "annotations" / f"{split}.json").read_text())["annotations"]


def test_is_a_coco_folder(folder):
    train, val = open_dataset(folder, "train"), open_dataset(folder, "val")
    assert (len(train), len(val)) == (8, 3)
    assert train.classes == val.classes == ["ring", "star", "leaf", "comb", "tree", "spiral"]
    image, target = train[0]
    assert image.shape == (3, 192, 192)
    assert len(target["labels"]) == len(target["boxes"]) > 0


def test_masks_are_exact(folder):
    for annotation in annotations(folder):
        mask = annotation["segmentation"]
        assert mask["size"] == [192, 192]
        assert rle.area(mask) == annotation["area"]
        assert rle.to_bbox(mask) == annotation["bbox"]


def test_targets_are_outlines_of_the_same_pixels(folder):
    dataset = open_dataset(folder, "train")
    wanted = [a for a in dataset.ground_truth["annotations"] if not a["iscrowd"]]
    masks = []
    for index in range(len(dataset)):
        vertices, rings, instances = dataset.target(index)["polygons"]
        flat = [vertices[a:b].flatten().tolist() for a, b in pairwise(rings.tolist())]
        outlines = [flat[a:b] for a, b in pairwise(instances.tolist())]
        masks += [rle.from_polygons(outline, 192, 192) for outline in outlines]
    assert len(masks) == len(wanted)
    for mask, annotation in zip(masks, wanted):
        assert mask["counts"].decode() == annotation["segmentation"]["counts"]


def test_visible_masks_do_not_overlap(folder):
    counts = np.zeros((8, 192, 192), int)
    for annotation in annotations(folder):
        counts[annotation["image_id"] - 1] += rle.decode(annotation["segmentation"])
    assert counts.max() == 1


def test_amodal_outline_and_visibility_explain_the_mask(folder):
    for annotation in annotations(folder):
        outline = [np.array(ring).reshape(-1, 2) for ring in annotation["amodal_segmentation"]]
        alpha, x, y = cover(outline, 192)
        whole = np.zeros((192, 192), bool)
        whole[y : y + alpha.shape[0], x : x + alpha.shape[1]] = alpha >= 0.5
        visible = rle.decode(annotation["segmentation"]).astype(bool)
        # corners are written with a tolerance, which moves a few pixels of the rim
        assert (visible & ~whole).sum() <= 0.03 * whole.sum() + 1
        assert visible.sum() / whole.sum() == pytest.approx(annotation["visibility"], abs=0.03)


def test_hidden_instances_are_crowd():
    style = replace(PRESETS["shapes-mini"].style, overlap=1.0, count=(30, 30))
    _, shapes = make_scene(style, np.random.default_rng(0))
    hidden = [shape for shape in shapes if shape.is_hidden]
    assert 0 < len(hidden) < len(shapes)
    assert all(s.visibility < 0.25 or s.mask.sum() < 40 for s in hidden)


def test_one_seed_one_data_set(folder, tmp_path):
    same = make_shapes("shapes-mini", tmp_path / "same", train=8, val=3)
    other = make_shapes("shapes-mini", tmp_path / "other", train=8, val=3, seed=1)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == 13
    assert all((folder / file).read_bytes() == (same / file).read_bytes() for file in files)
    assert annotations(folder) != annotations(other)


def test_scenes_do_not_depend_on_how_many_there_are(folder, tmp_path):
    fewer = make_shapes("shapes-mini", tmp_path / "fewer", train=2, val=0)
    name = "images/train/000002.png"
    assert (fewer / name).read_bytes() == (folder / name).read_bytes()


def test_splits_differ(folder):
    name = "000001.png"
    train, val = (folder / "images" / split / name for split in ("train", "val"))
    assert train.read_bytes() != val.read_bytes()


def test_is_made_once_and_whole(tmp_path, monkeypatch):
    seen = []
    options = {"train": 2, "val": 1, "progress": lambda done, total: seen.append((done, total))}
    folder = make_shapes("shapes-mini", tmp_path / "mini", **options)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    make_shapes("shapes-mini", folder, **options)
    assert len(seen) == 3

    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shapes("shapes-mini", tmp_path / "second", train=2, val=1, progress=fail)
    assert os.listdir(tmp_path) == ["mini"]


def test_never_overwrites(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(ValueError, match=r"holds other files[^\n]*\n  fix: name an empty folder"):
        make_shapes("shapes-mini", tmp_path, train=1, val=1)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_built_in_names(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAMASK_CACHE", str(tmp_path))
    assert shapes_folder("shapes").parent == tmp_path
    monkeypatch.setitem(PRESETS, "shapes-mini", replace(PRESETS["shapes-mini"], train=2, val=1))
    assert len(open_dataset("shapes-mini", "val")) == 1
    assert len(open_dataset("shapes-mini", "train")) == 2
    assert (tmp_path / "shapes-mini-v1" / "images" / "train" / "000002.png").is_file()
    with pytest.raises(ValueError, match=r"expected one of shapes-mini, .*, got 'x'"):
        make_shapes("x")


@pytest.mark.parametrize("name", CLASSES)
def test_outlines_grow_more_intricate_with_detail(name):
    """Rim length over the root of the area, the knob turned in steps."""
    raggedness = []
    for detail in (0.0, 0.5, 1.0):
        outline = CLASSES[name](detail, np.random.default_rng(0))
        points = np.concatenate(outline)
        assert np.isfinite(points).all()
        assert np.abs(points).max() <= 1.2
        alpha, _, _ = cover([(ring + 1.3) * 100 for ring in outline], 260)
        mask = np.pad(alpha >= 0.5, 1)
        rim = sum(int((mask != np.roll(mask, 1, axis)).sum()) for axis in (0, 1))
        raggedness.append(rim / mask.sum() ** 0.5)
    assert raggedness[0] < raggedness[1] < raggedness[2]


def test_detail_is_independent_of_class_size_and_colour():
    style = PRESETS["shapes-mini"].style
    rows = []
    for seed in range(110):
        picture, shapes = make_scene(style, np.random.default_rng([9, seed]))
        for shape in shapes:
            points = np.concatenate(shape.outline)
            size = np.ptp(points, axis=0).max()
            rows.append((shape.detail, shape.label, size, *picture[shape.mask].mean(0)))
    table = torch.tensor(rows, dtype=torch.float64)
    assert len(table) > 400
    correlation = torch.corrcoef(table.T)[0, 1:]
    assert correlation.abs().max() < 3.5 / len(table) ** 0.5
    for label in range(len(style.classes)):
        detail = table[table[:, 1] == label, 0]
        assert detail.min() < 0.1
        assert detail.max() > 0.9
