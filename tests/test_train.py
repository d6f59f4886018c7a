"""Real trainings of a very small network on a few generated scenes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from shutil import copytree

import pytest
import torch

from dynamask.checkpoint import Meta, load_model, load_state, read_weights, save_state
from dynamask.config import load_config
from dynamask.data import make_shapes, open_dataset
from dynamask.device import pick_device
from dynamask.errors import InputError
from dynamask.ops import Polygons
from dynamask.optimization import AveragedWeights, learning_rate, make_optimizer
from dynamask.run_folder import RunFolder
from dynamask.train import start_model, train
from dynamask.trainer import Trainer, seed_everything

TINY = {
    "model.options": {"width": 8, "mask_channels": 8, "mask_rois": 3, "proposals": 20},
    "data.short_sides": [80, 96],
    "data.eval_short_side": 96,
    "data.max_side": 96,
    "train.batch_size": 2,
    "train.phase1_epochs": 1,
    "train.epochs": 2,
    "train.save_every": 1,
    "train.device": "cpu",
    "eval.metrics": ["segm"],
    "eval.images": 1,
    "optim.warmup_steps": 2,
}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    return make_shapes("shapes-mini", tmp_path_factory.mktemp("data") / "shapes", train=4, val=2)


def make_config(shapes, out, **changes):
    given = {name.replace("__", "."): value for name, value in changes.items()}
    basis = {**TINY, "data.source": str(shapes), "train.out": str(out)}
    return load_config(overrides=basis | given)


@pytest.fixture
def config(shapes, tmp_path):
    return partial(make_config, shapes, tmp_path / "runs")


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory):
    """A run that nothing interrupted."""
    return train(make_config(shapes, tmp_path_factory.mktemp("whole")))


def sha256_of_weights(run):
    tensors, _ = read_weights(run.path / "weights" / "last.safetensors")
    return hashlib.sha256(
        b"".join(tensors[k].numpy().tobytes() for k in sorted(tensors))
    ).hexdigest()


def test_both_phases_leave_a_whole_run_folder(whole):
    run = whole
    rows = RunFolder(run.path).read_rows("train.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["phase"] for row in rows] == [1, 1, 2, 2, 2, 2]
    # the schedule starts anew in phase two
    assert rows[2]["lr"] == rows[0]["lr"] < rows[1]["lr"]
    assert rows[0]["budget"] is None
    assert rows[2]["budget"] is not None
    names = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    assert names >= {
        *("config.yaml", "env.json", "data.json", "train.csv", "val.csv", "log.txt"),
        *("weights/best.safetensors", "weights/last.safetensors", "report.html"),
        *("state/last.pt", "state/previous.pt", "images/val_0001.jpg"),
        *("eval/metrics.json", "eval/per_class.csv", "eval/predictions.coco.json.gz"),
        "plots/curves.svg",
    }
    assert not [name for name in names if ".tmp-" in name]
    assert json.loads((run.path / "data.json").read_text())["images"] == 4
    model, meta = load_model(run.path)
    assert meta.config == RunFolder(run.path).config()
    assert meta.classes == open_dataset(meta.config.data.source, "val").classes
    for key, value in run.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_a_second_run_overwrites_nothing(config):
    first = RunFolder.create(config()).path
    second = RunFolder.create(config()).path
    assert first.name.endswith("-01")
    assert second.name.endswith("-02")


@pytest.mark.parametrize("stop_at", [1, 2, 4])
def test_resumed_equals_uninterrupted(config, whole, stop_at):
    """To the last bit: weights, average, optimizer and the rows of the log."""
    part = train(config(train__max_steps=stop_at))
    resumed = train(config(), resume=RunFolder(part.path))
    assert resumed.path == part.path
    assert sha256_of_weights(resumed) == sha256_of_weights(whole)
    a, b = (load_state(run.path / "state")[0] for run in (whole, resumed))
    for key, value in a["model"].items():
        assert torch.equal(value, b["model"][key]), key
    for key, value in a["optimizer"]["state"].items():
        assert torch.equal(value["exp_avg"], b["optimizer"]["state"][key]["exp_avg"])
    lines = [RunFolder(run.path).read_rows("train.csv") for run in (whole, resumed)]
    for one, other in zip(*lines, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_kill_9_and_resume_end_in_the_same_weights(config, whole, tmp_path):
    file, out = tmp_path / "run.yaml", tmp_path / "runs"
    file.write_text(config().to_yaml())
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "dynamask", "train", "--config", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=threads)
    wait_for(lambda: list(out.glob("*/state/previous.pt")), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (path,) = out.iterdir()
    assert not (path / "weights").exists()
    resumed = train(config(), resume=RunFolder.open(None, out))
    assert sha256_of_weights(resumed) == sha256_of_weights(whole)


def wait_for(something, process):
    deadline = time.monotonic() + 120
    while not something():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sigterm_saves_and_exits_with_143(config, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(config(train__epochs=50, train__save_every=1000).to_yaml())
    command = [sys.executable, "-m", "dynamask", "train", "--config", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    out = tmp_path / "runs"
    wait_for(lambda: any(p.read_text().count("\n") > 2 for p in out.glob("*/train.csv")), process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert "stopped by SIGTERM and saved at step" in error
    (state,) = out.glob("*/state")
    saved = load_state(state)[0]["step"]
    assert saved == len((state.parent / "train.csv").read_text().splitlines()) - 1


def test_resume_after_damage_takes_the_state_before(config, capsys):
    run = train(config(train__max_steps=3))
    last = run.path / "state" / "last.pt"
    last.write_bytes(last.read_bytes()[:-100])
    train(config(train__max_steps=4), resume=RunFolder(run.path))
    assert "passed over" in capsys.readouterr().err
    assert [r["step"] for r in RunFolder(run.path).read_rows("train.csv")] == [1, 2, 3, 4]


def test_resume_with_other_data_is_refused(config, shapes, tmp_path):
    run = train(config(train__max_steps=1))
    other = make_shapes("shapes-mini", tmp_path / "other", train=2, val=1, seed=5)
    with pytest.raises(InputError, match="the training data changed"):
        train(config(data__source=str(other)), resume=RunFolder(run.path))


def trainer(config, **changes):
    made = config(**changes)
    seed_everything(0, 0)
    model = start_model(made, ["a", "b"])
    meta = Meta(made, ["a", "b"], [1, 2])
    one = Trainer(made, model, meta, RunFolder.create(made), pick_device("cpu"))
    one.plan(4)
    one.enter_phase()
    return one


def image_and_target(boxes=()):
    squares = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in boxes]
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
        "polygons": Polygons.of(squares),
        "image_id": 7,
        "original_size": (96, 96),
    }
    return torch.rand(3, 96, 96), target


@pytest.mark.parametrize("phase1", [0, 1])
def test_a_step_without_anything_to_find(config, phase1):
    one = trainer(config, train__phase1_epochs=phase1)
    image, target = image_and_target()
    row = one.take_step([([image], [target])])
    assert torch.isfinite(torch.tensor(row["loss"]))
    assert row["grad_norm"] > 0


def test_nan_is_kept_out_of_the_weights(config, capsys):
    one = trainer(config, train__nan_limit=3)
    image, target = image_and_target([(20.0, 20.0, 70.0, 70.0)])
    good = [([image], [target])]
    one.take_step(good)
    before = {k: v.clone() for k, v in one.model.state_dict().items()}
    image_of_nan = image.clone()
    image_of_nan[0, 5, 5] = float("nan")
    bad = [([image_of_nan], [target])]
    one.take_step(bad)
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert "step 2 skipped" in capsys.readouterr().err
    kept = torch.load(one.folder.path / "bad_batches" / "step-000002.pt", weights_only=True)
    assert kept["batches"][0]["targets"][0]["image_id"] == 7
    one.take_step(good)
    assert one.skipped_in_a_row == 0
    one.take_step(bad)
    one.take_step(bad)
    with pytest.raises(InputError, match="3 steps in a row"):
        one.take_step(bad)


def test_accumulated_gradients_are_the_mean(config):
    one = trainer(config, optim__accumulate=2, optim__clip_norm=0.0)
    pairs = [image_and_target([(20.0, 20.0, 70.0, 70.0)]) for _ in range(2)]
    row = one.take_step([([image], [target]) for image, target in pairs])
    single = []
    for image, target in pairs:
        other = trainer(config)
        single.append(other.take_step([([image], [target])])["loss"])
    # which proposals a batch samples is random, so only about
    assert row["loss"] == pytest.approx(sum(single) / 2, rel=0.1)


def test_a_disk_that_is_full_for_a_while_ends_no_training(config, monkeypatch, capsys):
    failures = iter([True, False, False, False, False, False, False])
    real_save = save_state

    def save(folder, state):
        if next(failures):
            raise OSError(28, "No space left on device")
        real_save(folder, state)

    monkeypatch.setattr("dynamask.trainer.save_state", save)
    run = train(config(train__max_steps=2))
    assert "could not save the training state, will try again" in capsys.readouterr().err
    assert load_state(run.path / "state")[0]["step"] == 2


def test_an_image_that_cannot_be_read(config, tmp_path):
    data = make_shapes("shapes-mini", tmp_path / "damaged", train=4, val=1)
    image = sorted((data / "images" / "train").iterdir())[1]
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(ValueError, match=image.name):
        train(config(data__source=str(data)))
    run = train(config(data__source=str(data), data__bad_image_budget=0.25, train__epochs=1))
    assert image.name in (run.path / "log.txt").read_text()


def test_weights_for_another_number_of_classes(config, tmp_path, shapes):
    run = train(config(train__max_steps=1))
    more = copytree(shapes, tmp_path / "more")
    for name in ("train", "val"):
        path = more / "annotations" / f"{name}.json"
        content = json.loads(path.read_text())
        content["categories"].append({"id": 77, "name": "seventh"})
        path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"trained on 6 classes .* has 7"):
        train(config(data__source=str(more), model__weights=str(run.path)))


def test_mask_rcnn_trains_by_the_same_loop(config):
    """No switch, so no phase without it."""
    one = trainer(
        config,
        model__name="maskrcnn_r50",
        model__options={"backbone": "resnet18", "norm": "bn", "mask_rois": 2, "mask_size": 14},
    )
    assert one.phase_steps[0] == 0
    image, target = image_and_target([(20.0, 20.0, 70.0, 70.0)])
    row = one.take_step([([image], [target])])
    assert row["phase"] == 2
    assert row["loss"] > 0


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        ("constant", [0, 0.5, 1, 1, 1]),
        ("cosine", [0, 0.5, 1, 0.5, 0]),
        ("step", [0, 0.5, 1, 1, 0.1]),
    ],
)
def test_learning_rate_by_hand(schedule, at):
    optim = load_config(
        overrides={
            "optim.lr": 2.0,
            "optim.schedule": schedule,
            "optim.warmup_steps": 20,
            "optim.warmup_factor": 0.0,
            "optim.milestones": [0.75],
        }
    ).optim
    found = [learning_rate(optim, step, 100) for step in (0, 10, 20, 60, 100)]
    assert found == pytest.approx([2 * share for share in at], abs=1e-12)


def test_averaged_weights_by_hand():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
    average = AveragedWeights(model, 0.5)
    with torch.no_grad():
        model[0].weight.fill_(3.0)
        model[1].num_batches_tracked.fill_(9)
    before = average.average["0.weight"].item()
    average.update()  # decay min(0.5, 2 / 11)
    want = 3 + (before - 3) * 2 / 11
    assert average.average["0.weight"].item() == pytest.approx(want, rel=1e-6)
    assert average.average["1.num_batches_tracked"] == 9
    with average.in_place():
        assert model[0].weight.item() == pytest.approx(want, rel=1e-6)
    assert model[0].weight.item() == 3.0


def test_biases_and_norms_do_not_decay():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = make_optimizer(model, load_config(overrides={"optim.weight_decay": 0.5}).optim)
    decayed, others = optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert decayed["weight_decay"] == 0.5
    assert [p.ndim for p in others["params"]] == [1, 1, 1]
    assert others["weight_decay"] == 0.0


def test_a_step_is_a_function_of_seed_and_number():
    seed_everything(3, 8)
    first = torch.rand(2)
    torch.rand(5)
    seed_everything(3, 8)
    assert torch.equal(torch.rand(2), first)
    seed_everything(3, 9)
    assert not torch.equal(torch.rand(2), first)


def test_device_that_is_not_there():
    with pytest.raises(InputError, match="'cuda:77' cannot be used"):
        pick_device("cuda:77")
