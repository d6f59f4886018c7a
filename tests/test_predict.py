import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dynamask import DynaMask, cli
from dynamask.checkpoint import Meta, load_model, save_weights
from dynamask.cli import main
from dynamask.config import load_config
from dynamask.errors import InputError
from dynamask.predict import as_pixels, find_images, predict, predict_files
from dynamask.train import start_model
from dynamask.trainer import seed_everything

CLASSES = ["disc", "star", "gear"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained network that calls nearly everything an object."""
    options = {"width": 8, "mask_channels": 8, "proposals": 20, "detections": 6}
    config = load_config(
        overrides={
            "model.options": {**options, "score_threshold": 0.0},
            "data.eval_short_side": 64,
            "data.max_side": 128,
        }
    )
    seed_everything(0, 0)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, start_model(config, CLASSES), Meta(config, CLASSES, [7, 90, 3]))
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, size in (("b.png", (60, 90)), ("a.jpg", (120, 70)), ("deeper/a.png", (64, 64))):
        Image.fromarray(random.integers(0, 255, (*size, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_coco_results_with_the_ids_of_the_data_set(weights, photos, tmp_path):
    out = tmp_path / "out"
    assert predict_files(weights, [photos], out, score=0.0, device="cpu") == []
    content = json.loads((out / "predictions.json").read_text())
    assert [c["id"] for c in content["categories"]] == [7, 90, 3]
    assert [(i["height"], i["width"]) for i in content["images"]] == [(120, 70), (60, 90), (64, 64)]
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    assert content["annotations"]
    for found in content["annotations"]:
        assert found["category_id"] in (7, 90, 3)
        assert found["segmentation"]["size"] == sizes[found["image_id"]]
        assert found["mask_size"] in (14, 28, 56, 112)
    # two images are named a: neither overwrites the other
    assert sorted(p.name for p in out.glob("*.png")) == ["a-2.png", "a.png", "b.png"]


def test_dense_masks(weights, photos, tmp_path):
    formats = ["masks", "mask-png"]
    image = photos / "b.png"
    predict_files(weights, [image], tmp_path, formats=formats, score=0.0, device="cpu")
    with np.load(tmp_path / "b.npz") as found:
        assert found["masks"].shape[1:] == (60, 90)
        assert found["masks"].dtype == bool
        assert len(found["masks"]) == len(found["boxes"]) == len(found["names"]) > 0
        numbers = np.asarray(Image.open(tmp_path / "b.instances.png"))
        assert ((numbers > 0) == found["masks"].any(0)).all()


def test_a_fixed_mask_size(weights, photos, tmp_path):
    predict_files(weights, [photos / "b.png"], tmp_path, score=0.0, mask_size=56, device="cpu")
    content = json.loads((tmp_path / "predictions.json").read_text())
    assert {found["mask_size"] for found in content["annotations"]} == {56}


def test_an_unreadable_image_is_named_and_the_others_are_done(weights, photos, tmp_path, capsys):
    damaged = photos / "a.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    out = tmp_path / "out"
    arguments = ["predict", str(weights), str(photos), "--out", str(out), "--device", "cpu"]
    assert cli.main(arguments) == 2
    assert f"cannot read image {damaged}" in capsys.readouterr().err
    content = json.loads((out / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [
        str(photos / "b.png"),
        str(photos / "deeper" / "a.png"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formats": ["pdf"]}, "no format 'pdf'"),
        ({"formats": []}, "no format given"),
        ({"mask_size": 30}, "30 is none of 14, 28, 56, 112"),
        ({"images": ["nowhere.jpg"]}, "nowhere.jpg: no such file"),
        ({"images": ["*.nothing"]}, "no such file"),
    ],
)
def test_says_what_is_wrong(weights, photos, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        predict_files(weights, **{"images": [photos], "out": tmp_path, "device": "cpu"} | changes)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(InputError, match="has no image in it"):
        find_images([tmp_path])


def test_globs_and_repetitions(photos):
    found = find_images([photos / "*.png", photos / "b.png", photos / "deeper"])
    assert [p.name for p in found] == ["b.png", "a.png"]


def test_any_kind_of_image_gives_the_same(weights, photos):
    model, meta = load_model(weights)
    path = photos / "b.png"
    array = np.asarray(Image.open(path))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    images = [path, str(path), Image.open(path), array, tensor, tensor / 255]
    found = predict(model, images, short_side=64, max_side=128, score=0.0, classes=meta.classes)
    for other in found[1:]:
        assert torch.equal(other.boxes, found[0].boxes)
        assert torch.equal(other.masks.values, found[0].masks.values)
    assert found[0].image_size == (60, 90)
    assert set(found[0].names) <= set(CLASSES)


@pytest.mark.parametrize("image", [torch.zeros(1, 4, 4), np.zeros((4, 4), np.uint8)])
def test_what_is_no_image(image):
    with pytest.raises(ValueError, match="predict: expected an"):
        as_pixels(image)


def test_no_images_at_all(weights):
    model, _ = load_model(weights)
    assert predict(model, [], short_side=64, max_side=128) == []


def test_the_facade(weights, photos, tmp_path):
    model = DynaMask(weights, device="cpu")
    assert model.classes == CLASSES
    one = model.predict(photos / "b.png", score=0.0)
    (again,) = model.predict([photos / "b.png"], score=0.0)
    assert torch.equal(one.boxes, again.boxes)
    model.use_mask_size(28)
    assert set(model.predict(photos / "b.png", score=0.0).mask_size.tolist()) == {28}
    model.use_mask_size(None)
    model.save(tmp_path / "copy.safetensors")
    copy = DynaMask(tmp_path / "copy.safetensors", device="cpu")
    assert torch.equal(copy.predict(photos / "b.png", score=0.0).boxes, one.boxes)
    assert isinstance(copy.module, torch.nn.Module)


def test_the_facade_keeps_its_inference_form_while_it_holds(weights, photos):
    model = DynaMask(weights, device="cpu")
    fused = model.fused()
    before = model.predict(photos / "b.png", score=0.0)
    assert model.fused() is fused
    assert model.fused("bf16").dtype == torch.bfloat16
    with torch.no_grad():
        model.module.box_head.predictor.cls_score.bias[1] += 5
    after = model.predict(photos / "b.png", score=0.0)
    assert after.scores.max() > before.scores.max()


def test_bf16(weights, photos, tmp_path):
    predict_files(weights, [photos], tmp_path, score=0.0, device="cpu", precision="bf16")
    assert json.loads((tmp_path / "predictions.json").read_text())["annotations"]
    with pytest.raises(InputError, match="precision: expected one of fp32, bf16, got 'int4'"):
        predict_files(weights, [photos], tmp_path, device="cpu", precision="int4")
    command = ["predict", str(weights), str(photos / "b.png"), "--out", str(tmp_path / "cli")]
    assert main([*command, "--device", "cpu", "--precision", "bf16"]) == 0
    assert (tmp_path / "cli/predictions.json").exists()


def test_importing_the_package_is_light():
    code = "import sys, dynamask; print('torch' in sys.modules, dynamask.DynaMask.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "DynaMask"]
