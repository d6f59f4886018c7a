"""Training: two phases, one loop.

Phase one trains all mask sizes and leaves the switch aside; phase two trains everything, with the
learning rate schedule started anew. Whatever is random in step n follows from (seed, n), and the
order of the images from (seed, epoch), so a run that was stopped goes on to the very same weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dynamask.checkpoint import Meta, build_model, check_classes, fill, read_weights
from dynamask.config import Config
from dynamask.data import CocoDataset, open_dataset, same_classes
from dynamask.device import pick_device
from dynamask.errors import InputError
from dynamask.evaluate import write_evaluation
from dynamask.files import write_atomic
from dynamask.pictures import leave_pictures
from dynamask.plots import write_plots
from dynamask.progress import Progress, say
from dynamask.report import write_run_report
from dynamask.run_folder import RunFolder, fingerprint
from dynamask.stopping import Stop, warnings_to
from dynamask.trainer import Trainer, seed_everything

if TYPE_CHECKING:
    from dynamask.models.detector import Detector


@dataclass
class Run:
    """What a training leaves.

    Attributes:
        path: The run folder.
        metrics: Those of the last evaluation.
        model: The network with the weights of ``weights/last.safetensors``.
        meta: Config, classes and category ids.
    """

    path: Path
    metrics: dict[str, Any]
    model: Detector
    meta: Meta


def train(config: Config, *, resume: RunFolder | None = None) -> Run:
    """Trains a network as ``config`` says and evaluates it.

    Args:
        config: Everything about the run.
        resume: Go on with this run instead of starting one.

    Raises:
        InputError: for data, weights or a state that cannot be used, or losses that stay NaN.
        SystemExit: with 143 (130) when stopped by SIGTERM (Ctrl-C), after saving.
    """
    # data first: nobody wants a run folder of a run that could not start
    train_set, eval_set = open_data(config)
    device = pick_device(config.train.device)
    seed_everything(config.train.seed, 0)
    model = start_model(config, train_set.classes).to(device)
    folder = resume or RunFolder.create(config)
    _check_same_data(folder, train_set, resuming=resume is not None)
    write_atomic(folder.path / "config.yaml", config.to_yaml())
    meta = Meta(config, list(train_set.classes), [int(i) for i in train_set.category_ids])

    trainer = Trainer(config, model, meta, folder, device)
    trainer.plan(len(train_set))
    if resume is not None:
        trainer.restore()
    batches = iter(trainer.batches(train_set))
    say(f"run: {folder.path}   {describe(config, model, train_set, device)}")
    with (
        warnings_to(trainer.note),
        Stop() as stop,
        Progress("train", trainer.steps, config.train.log_every, folder.log) as bar,
    ):
        while trainer.step < trainer.steps:
            trainer.enter_phase()
            row = trainer.take_step(list(islice(batches, config.optim.accumulate)))
            bar.update(trainer.step, _progress_text(row))
            if stop.signal is not None:
                trainer.save()
                again = f"dynamask train --resume {folder.path}"
                say(f"stopped by {stop.name} and saved at step {trainer.step}; go on: {again}")
                raise SystemExit(128 + stop.signal)
            if trainer.step % config.train.save_every == 0:
                trainer.save()
            if trainer.at_evaluation():
                trainer.measure(eval_set)
    if trainer.measured_at != trainer.step:
        trainer.measure(eval_set)
    trainer.save()
    assert trainer.evaluation is not None
    if trainer.average is not None:
        model.load_state_dict(trainer.average.average)
    model.eval()
    write_evaluation(folder.path / "eval", trainer.evaluation)
    leave_pictures(folder, model, meta, eval_set, config.eval.images)
    write_plots(folder, trainer.evaluation, eval_set.ground_truth, config.eval.score)
    write_run_report(folder)
    return Run(folder.path, trainer.evaluation.summary(), model, meta)


def open_data(config: Config) -> tuple[CocoDataset, CocoDataset]:
    """The images to train on and those to evaluate on."""
    source, on_error = config.data.source, config.data.on_error
    train_set = open_dataset(source, "train", on_error=on_error)
    if config.data.train_limit is not None:
        train_set = train_set.subset(range(min(config.data.train_limit, len(train_set))))
    if config.eval.split == "train":
        return train_set, train_set
    eval_set = open_dataset(source, "val", on_error=on_error)
    same_classes(train_set, eval_set)
    return train_set, eval_set


def start_model(config: Config, classes: list[str]) -> Detector:
    """The network at step 0: fresh, or with the weights the config names."""
    model = build_model(config, len(classes))
    if config.model.backbone_weights is not None:
        load_backbone(model, config.model.backbone_weights)
    if config.model.weights is not None:
        tensors, meta = read_weights(config.model.weights)
        check_classes(meta, classes, config.model.weights, config.data.source)
        fill(model, tensors, config.model.weights)
    return model


def load_backbone(model: Detector, path: str) -> None:
    """Loads a torchvision state dict into the network as far as it goes.

    Raises:
        InputError: if the file cannot be read safely or fits nowhere.
    """
    from safetensors.torch import load_file

    from dynamask.models.torchvision_weights import load_torchvision

    try:
        if path.endswith(".safetensors"):
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        load_torchvision(model, state)
    except Exception as error:
        raise InputError(f"model.backbone_weights: {path} cannot be used: {error}") from error


def _check_same_data(folder: RunFolder, dataset: Any, *, resuming: bool) -> None:
    now = fingerprint(dataset)
    if not resuming:
        folder.write_json("data.json", now)
        return
    before = folder.read_json("data.json")
    if before["sha256"] != now["sha256"]:
        raise InputError(
            f"resume: the training data changed since {folder.path} began: "
            f"{before['images']} images and {before['annotations']} annotations then, "
            f"{now['images']} and {now['annotations']} now; fix: put it back, or start a new run "
            f"with --model.weights {folder.path}"
        )


def _progress_text(row: dict[str, Any]) -> str:
    return f"phase {row['phase']}  loss {row['loss']:.3f}  lr {row['lr']:.2g}"


def describe(config: Config, model: Detector, dataset: CocoDataset, device: torch.device) -> str:
    """What is about to be trained, in a line."""
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    return (
        f"{config.model.name} ({parameters:.1f} M parameters) on {device}, "
        f"{len(dataset)} images, {len(dataset.classes)} classes"
    )
