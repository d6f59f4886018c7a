"""Everything that can be wrong with a data set, and the sentence each fault gets."""

import json
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from dynamask.data import DataError, open_dataset
from dynamask.ops import mask_targets

INF, NAN = float("inf"), float("nan")


def annotation(**changes):
    return lambda content: content["annotations"][0].update(changes)


def image(**changes):
    return lambda content: content["images"][1].update(changes)


def without(kind, key):
    return lambda content: content[kind][0].pop(key)


def run_lengths(counts, size=(40, 60)):
    return annotation(segmentation={"size": list(size), "counts": counts})


ANNOTATIONS = {
    "unknown image": (annotation(image_id=5000), r"id 11: image_id 5000 is not in 'images'"),
    "no image": (without("annotations", "image_id"), r"image_id None is not in 'images'"),
    "odd image id": (annotation(image_id=[7]), r"image_id \[7\] is not in 'images'"),
    "unknown category": (annotation(category_id=4), r"category_id 4 is not in 'categories'"),
    "no category": (without("annotations", "category_id"), "category_id None is not"),
    "zero width": (annotation(bbox=[3, 4, 0, 12]), r"bbox \[3, 4, 0, 12\] has zero width"),
    "zero height": (annotation(bbox=[3, 4, 12, 0]), "has zero height"),
    "negative box": (annotation(bbox=[30, 30, -9, -9]), "has a negative width"),
    "box outside": (annotation(bbox=[60, 3, 9, 9]), "lies outside the image of 60 x 40 pixels"),
    "NaN box": (annotation(bbox=[NAN, 3, 9, 9]), "is not four finite numbers"),
    "short box": (annotation(bbox=[3, 9, 9]), "is not four finite numbers"),
    "text box": (annotation(bbox=["3", 3, 9, 9]), "is not four finite numbers"),
    "huge box": (annotation(bbox=[10**400, 3, 9, 9]), "is not four finite numbers"),
    "odd crowd": (annotation(iscrowd=2), "'iscrowd' is 2, expected 0 or 1"),
    "text area": (annotation(area="big"), "'area' is 'big', expected a number"),
    "no outline": (annotation(segmentation=[]), "it has no 'segmentation'"),
    "null outline": (annotation(segmentation=None), "it has no 'segmentation'"),
    "two points": (annotation(segmentation=[[1, 1, 9, 9]]), "a polygon has 2 points, needs 3"),
    "empty polygon": (annotation(segmentation=[[]]), "a polygon has 0 points, needs 3"),
    "odd polygon": (annotation(segmentation=[[1, 1, 9, 9, 5, 5, 5]]), "a polygon has 7 numbers"),
    "NaN polygon": (annotation(segmentation=[[1, 1, 9, 9, NAN, 5]]), "a polygon holds NaN"),
    "Inf polygon": (annotation(segmentation=[[1, 1, INF, 9, -INF, 5]]), "a polygon holds NaN"),
    "text polygon": (annotation(segmentation=[["1", 1, 9, 9, 5, 5]]), "a polygon holds NaN"),
    "deep polygon": (annotation(segmentation=[[[1, 1], [9, 9]]]), "a polygon holds NaN"),
    "flat polygon": (annotation(segmentation=[1, 1, 9, 9, 5, 5]), "is a flat list"),
    "mixed polygon": (annotation(segmentation=[[1, 1, 9, 9, 5, 5], 3]), "mixes polygons"),
    "text outline": (annotation(segmentation="all"), "neither a list of polygons nor an RLE"),
    "RLE of another size": (
        run_lengths([2400], (60, 40)),
        "is for 40 x 60 pixels, the",
    ),
    "RLE of no size": (
        run_lengths([2400], (40,)),
        r"has the size \[40\], expected",
    ),
    "RLE of huge size": (run_lengths("0", (10**9, 10**9)), "is for 1000000000 x 1000000000"),
    "RLE too short": (run_lengths([3, 4]), "its RLE is broken: .*2400"),
    "RLE too long": (run_lengths([3, 4000]), "its RLE is broken"),
    "RLE negative": (run_lengths([2405, -5]), "its RLE is broken"),
    "RLE of text": (run_lengths("zzz"), "its RLE is broken: .* byte 0"),
    "RLE cut off": (run_lengths("P"), "its RLE is broken"),
    "RLE not ASCII": (run_lengths("\u00e4"), "its RLE is broken"),
    "RLE without counts": (run_lengths(None), "its RLE has no 'counts'"),
    "RLE of nothing": (run_lengths([2400]), "its RLE is empty"),
    "duplicate id": (annotation(id=12), r"id 12 \(image 7 'a.png'\): another annotation has the"),
    "text id": (annotation(id="x"), "its 'id' 'x' is no whole number"),
}

IMAGES = {
    "missing file": (image(file_name="c.png"), "image 3 'c.png': there is no such file in"),
    "parent": (image(file_name="../../secret.png"), "leads out of the image folder"),
    "absolute": (image(file_name="/etc/passwd"), "is an absolute path"),
    "drive": (image(file_name="C:\\a.png"), "is an absolute path"),
    "symlink": (image(file_name="link.png"), "leads out of the image folder"),
    "NUL": (image(file_name="a.png\0.jpg"), "holds a NUL character"),
    "no name": (image(file_name=None), "its 'file_name' None is no text"),
    "folder": (image(file_name="."), "there is no such file"),
    "duplicate id": (image(id=7), "image 7 'b.png': another image has the same id"),
    "text id": (image(id="3"), "its 'id' '3' is no whole number"),
    "no size": (image(width=None), "'width' None and 'height' 40 are not two positive"),
    "zero size": (image(height=0), "'width' 60 and 'height' 0 are not two positive"),
    "bomb": (image(height=10**5, width=10**5), "100000 x 100000 pixels are more than max_pixels"),
}


@pytest.fixture
def folder(content, write, tmp_path):
    made = write(content)
    Image.new("RGB", (60, 40)).save(tmp_path / "secret.png")
    os.symlink(tmp_path / "secret.png", made / "images" / "train" / "link.png")
    return made


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_annotation(content, write, name):
    change, message = ANNOTATIONS[name]
    change(content)
    folder = write(content)
    with pytest.raises(DataError, match=rf"1 annotation cannot be used in .*\n.*{message}"):
        open_dataset(folder, "train")
    with pytest.warns(UserWarning, match=message):
        dataset = open_dataset(folder, "train", on_error="skip")
    assert len(dataset.ground_truth["annotations"]) == 2
    assert len(dataset.image_ids) == 2
    assert [fault.kind for fault in dataset.skipped] == ["annotation"]


@pytest.mark.parametrize("name", IMAGES)
def test_image(content, write, folder, name):
    change, message = IMAGES[name]
    change(content)
    write(content)
    with pytest.raises(DataError, match=rf"1 image cannot be used in .*train.json\n.*{message}"):
        open_dataset(folder, "train")
    with pytest.warns(UserWarning, match="1 image cannot be used"):
        dataset = open_dataset(folder, "train", on_error="skip")
    assert dataset.image_ids == [7]
    assert len(dataset.ground_truth["annotations"]) == 3


def test_a_bad_image_takes_its_annotations_along(content, write):
    content["images"][0]["file_name"] = "gone.png"
    content["annotations"][0]["image_id"] = 3
    with pytest.warns(UserWarning, match="1 image cannot be used"):
        dataset = open_dataset(write(content), "train", on_error="skip")
    assert [a["id"] for a in dataset.ground_truth["annotations"]] == [11]


def test_all_faults_are_told_at_once(content, write):
    content["images"][1]["file_name"] = "c.png"
    content["annotations"][0]["bbox"] = [0, 0, 0, 9]
    content["annotations"][1]["category_id"] = 77
    with pytest.raises(DataError) as caught:
        open_dataset(write(content), "train")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("data: 1 image and 2 annotations cannot be used in")
    assert "image 3 'c.png'" in lines[1]
    assert "id 11 (image 7 'a.png'): bbox [0, 0, 0, 9] has zero width" in lines[2]
    assert "id 12 (image 7 'a.png'): category_id 77" in lines[3]
    assert lines[-1].startswith("  fix: ")


def test_long_lists_are_cut(content, write):
    bad = {**content["annotations"][0], "bbox": [0, 0, 0, 9]}
    content["annotations"] += [{**bad, "id": 100 + k} for k in range(33)]
    with pytest.raises(DataError) as caught:
        open_dataset(write(content), "train")
    assert len(str(caught.value).splitlines()) == 23
    assert "... and 13 more" in str(caught.value)


CATEGORIES = '"categories": [{"id": 1, "name": "a"}]'
FILES = {
    "truncated": (
        '{"images": [{"id": 1',
        "is no JSON, or only the beginning of .*character 20",
    ),
    "empty": ("", "is no JSON, or only the beginning of it"),
    "not UTF-8": (b'{"images": "\xff"}', "is not UTF-8 text: byte 12 is wrong"),
    "list": ("[]", "holds a list, expected an object"),
    "number": ("3", "holds a single value"),
    "no keys": ("{}", "it has no list 'images', 'annotations', 'categories'"),
    "wrong kind": ('{"images": 3, "annotations": []}', "it has no list 'images', 'categories'"),
    "entries": (f'{{"images": [3], "annotations": [], {CATEGORIES}}}', "entry 0 of 'images' is no"),
    "no images": (f'{{"images": [], "annotations": [], {CATEGORIES}}}', "the data set is empty"),
    "no categories": ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
    "category": (
        '{"images": [], "annotations": [], "categories": [{"id": 1}]}',
        "category 0",
    ),
    "twice": (
        f'{{"images": [], "annotations": [], {CATEGORIES[:-1]}, {{"id": 1, "name": "b"}}]}}',
        "two categories have the id 1",
    ),
    "nested": ("[" * 10**6, "brackets nest too deeply"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_file(tmp_path, name, on_error):
    data, message = FILES[name]
    path = tmp_path / "train.json"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(path, "train", on_error=on_error)
    assert str(path) in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        open_dataset(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match=r"cannot open .*gone.json: No such file"):
        open_dataset(tmp_path / "gone.json", "train")
    with pytest.raises(DataError, match=r"looked for annotations/instances_train2017.json\n"):
        open_dataset(tmp_path, "train")
    with pytest.raises(DataError, match="expected the split 'train' or 'val', got 'test'"):
        open_dataset(tmp_path, "test")


def test_nothing_to_learn_from(content, write):
    content["annotations"] = []
    with pytest.raises(DataError, match="has no usable annotations"):
        open_dataset(write(content), "train")
    assert len(open_dataset(write(content, "val"), "val")) == 2


def test_the_file_is_read_as_it_is_written(content, write):
    folder = write(content)
    path = folder / "annotations" / "train.json"
    path.write_text(json.dumps(content).replace("[10, 5,", "[NaN, 5,"))
    with pytest.raises(DataError, match=r"1 annotation .*\n.*is not four finite numbers"):
        open_dataset(folder, "train")


def test_image_of_another_size(content, write):
    folder = write(content)
    Image.fromarray(np.zeros((30, 60, 3), np.uint8)).save(folder / "images/train/b.png")
    dataset = open_dataset(folder, "train")
    with pytest.raises(DataError, match=r"b.png is 60 x 30 pixels, but .* were made for 60 x 40"):
        dataset[1]


JUNK = [None, "", "x", -1, 0, 0.5, 10**30, NAN, INF, True, [], {}, [[]], [None], {"size": 3}, "\0"]


def mutate(value, rng):
    """Replaces one part somewhere inside by junk, or removes it."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[rng.integers(len(keys))]
    inner = value[key]
    if isinstance(inner, (dict, list)) and inner and rng.random() < 0.75:
        mutate(inner, rng)
    elif rng.random() < 0.2:
        del value[key]
    else:
        value[key] = JUNK[rng.integers(len(JUNK))]


def test_no_junk_gets_through(content, write):
    """Whatever stands in the file: it is refused in words, or every target can be used."""
    folder = write(content)
    path = folder / "annotations" / "train.json"
    original = json.dumps(content)
    refused = skipped = 0
    for seed in range(300):
        changed = json.loads(original)
        rng = np.random.default_rng(seed)
        for _ in range(rng.integers(1, 4)):
            if changed:
                mutate(changed, rng)
        path.write_text(json.dumps(changed))
        try:
            open_dataset(folder, "train")
        except DataError:
            refused += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = open_dataset(folder, "train", on_error="skip")
        except DataError:
            continue
        skipped += bool(dataset.skipped)
        for index in range(len(dataset)):
            image, target = dataset[index]
            boxes = target["boxes"]
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert boxes.isfinite().all()
            assert target["polygons"].vertices.isfinite().all()
            assert image.shape == (3, *target["original_size"])
            mask_targets(target["polygons"], boxes)
        json.dumps(dataset.ground_truth, allow_nan=False)
    assert refused > 200
    assert skipped > 30
