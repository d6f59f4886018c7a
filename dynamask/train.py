"""Training: two phases, one loop.

Phase one trains all mask sizes and leaves the switch aside; phase two trains everything, with the
learning rate schedule started anew. Whatever is random in step n follows from (seed, n), and the
order of the images from (seed, epoch), so a run that was stopped goes on to the very same weights.
"""

from __future__ import annotations

import io
import math
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dynamask.checkpoint import (
    Meta,
    build_model,
    check_classes,
    fill,
    load_state,
    read_weights,
    save_state,
    save_weights,
)
from dynamask.config import Config
from dynamask.data import (
    CocoDataset,
    TrainTransform,
    data_loader,
    open_dataset,
    same_classes,
    steps_per_epoch,
)
from dynamask.errors import InputError
from dynamask.evaluate import Evaluation, evaluate, write_evaluation
from dynamask.files import write_atomic
from dynamask.optimization import AveragedWeights, learning_rate, make_optimizer
from dynamask.predict import predict
from dynamask.progress import Progress, say
from dynamask.report import write_run_report
from dynamask.run_folder import RunFolder, fingerprint

Batch = tuple[list[torch.Tensor], list[dict[str, Any]]]

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
    write_run_report(folder)
    return Run(folder.path, trainer.evaluation.summary(), model, meta)


class Trainer:
    """The state of a training and what one step does to it."""

    def __init__(
        self, config: Config, model: Detector, meta: Meta, folder: RunFolder, device: torch.device
    ):
        self.config, self.model, self.meta, self.folder = config, model, meta, folder
        self.device = device
        self.step = 0
        self.phase = -1
        self.optimizer = make_optimizer(model, config.optim)
        ema = config.optim.ema
        self.average = AveragedWeights(model, ema) if ema > 0 else None
        self.skipped_in_a_row = 0
        self.best: float | None = None
        self.evaluation: Evaluation | None = None
        self.measured_at = -1
        self.seconds = 0.0

    def plan(self, images: int) -> None:
        """Counts the steps of both phases."""
        train = self.config.train
        batch = train.batch_size * self.config.optim.accumulate
        self.steps_per_epoch = steps_per_epoch(images, batch)
        has_switch = hasattr(self.model.mask_branch, "switch_enabled")
        first = train.phase1_epochs * self.steps_per_epoch if has_switch else 0
        self.phase_steps = [first, train.epochs * self.steps_per_epoch]
        self.steps = sum(self.phase_steps)
        if train.max_steps is not None:
            self.steps = min(self.steps, train.max_steps)
        if self.steps == 0:
            raise InputError(
                "config: train.phase1_epochs and train.epochs are both 0: nothing to do"
            )

    def batches(self, dataset: CocoDataset) -> Iterable[Batch]:
        """What is left of the stream of batches, whose every bit follows from seed and step."""
        data, train, accumulate = self.config.data, self.config.train, self.config.optim.accumulate
        return data_loader(
            dataset,
            TrainTransform(data.short_sides, data.max_side, data.flip),
            train.batch_size,
            train.seed,
            data.workers,
            first_step=self.step * accumulate,
            steps=(self.steps - self.step) * accumulate,
            max_unreadable=int(data.bad_image_budget * len(dataset)),
        )

    def enter_phase(self) -> None:
        """Sets the switch; a new phase gets a fresh optimizer, as a run of its own would."""
        phase = 0 if self.step < self.phase_steps[0] else 1
        if phase == self.phase:
            return
        if self.phase != -1:
            self.optimizer = make_optimizer(self.model, self.config.optim)
        self.phase = phase
        if hasattr(self.model.mask_branch, "switch_enabled"):
            self.model.mask_branch.switch_enabled = phase == 1

    def take_step(self, batches: list[Batch]) -> dict[str, Any]:
        """Gradients of some batches, one step of the optimizer if they are finite."""
        start, optim = time.perf_counter(), self.config.optim
        in_phase = self.step - (self.phase_steps[0] if self.phase == 1 else 0)
        rate = learning_rate(optim, in_phase, self.phase_steps[self.phase])
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        seed_everything(self.config.train.seed, self.step)
        sums: dict[str, torch.Tensor] = {}
        for images, targets in batches:
            for name, value in self._backward(images, targets).items():
                sums[name] = sums.get(name, 0) + value
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm or math.inf)
        # one transfer for all that is looked at
        values = torch.stack([norm.float(), *(v.float() for v in sums.values())]).tolist()
        losses = dict(zip(sums, values[1:]))
        if all(map(math.isfinite, values)):
            self.optimizer.step()
            self.skipped_in_a_row = 0
            if self.average is not None:
                self.average.update()
        else:
            self._skip(batches, losses, values[0])
        self.step += 1
        self.seconds += time.perf_counter() - start
        row = {
            "step": self.step,
            "epoch": round(self.step / self.steps_per_epoch, 4),
            "phase": self.phase + 1,
            "lr": rate,
            "loss": sum(losses.values()),
            **losses,
            "grad_norm": values[0],
            "seconds": round(self.seconds, 3),
        }
        self.folder.append_row("train.csv", row)
        return row

    def _backward(self, images: list, targets: list) -> dict[str, torch.Tensor]:
        images = [image.to(self.device, non_blocking=True) for image in images]
        targets = [_to_device(target, self.device) for target in targets]
        half = self.config.train.precision == "bf16"
        cast = torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()
        with cast:
            losses = self.model(images, targets)
        share = 1 / self.config.optim.accumulate
        losses = {name: value * share for name, value in losses.items()}
        torch.stack([value.float() for value in losses.values()]).sum().backward()
        return {name: value.detach() for name, value in losses.items()}

    def _skip(self, batches: list[Batch], losses: dict[str, float], norm: float) -> None:
        """Leaves the weights alone, keeps the batch for a post-mortem, and stops after a few."""
        self.skipped_in_a_row += 1
        bad = ", ".join(name for name, value in losses.items() if not math.isfinite(value))
        path = self.folder.path / "bad_batches" / f"step-{self.step + 1:06d}.pt"
        ids = [int(target["image_id"]) for _, targets in batches for target in targets]
        self.note(
            f"step {self.step + 1} skipped: {bad or 'the gradient'} is not finite (gradient norm "
            f"{norm}); images {ids}; batch kept in {path}"
        )
        content = io.BytesIO()
        kept = [
            {"images": images, "targets": [_plain(target) for target in targets]}
            for images, targets in batches
        ]
        torch.save({"losses": losses, "batches": kept}, content)
        try:
            write_atomic(path, content.getvalue())
        except OSError as error:
            self.note(f"could not keep the batch: {error}")
        if self.skipped_in_a_row >= self.config.train.nan_limit:
            raise InputError(
                f"train: {self.skipped_in_a_row} steps in a row had a loss or gradient that is not "
                f"finite; the weights before them are in {self.folder.state}\n"
                f"  fix: lower optim.lr (now {self.config.optim.lr}), or look into {path.parent}"
            )

    def note(self, line: str) -> None:
        say(line)
        self.folder.log(line)

    def at_evaluation(self) -> bool:
        every = self.config.eval.every * self.steps_per_epoch
        return every > 0 and self.step % every == 0

    def measure(self, dataset: Any) -> None:
        """Evaluates the (averaged) weights and saves them."""
        data, wanted = self.config.data, self.config.eval
        with self.average.in_place() if self.average is not None else nullcontext():
            found = evaluate(
                self.model,
                dataset,
                short_side=data.eval_short_side,
                max_side=data.max_side,
                batch_size=wanted.batch_size,
                metrics=wanted.metrics,
                limit=wanted.limit,
            )
            self.evaluation, self.measured_at = found, self.step
            numbers = {k: v for k, v in found.summary().items() if not isinstance(v, dict)}
            self.folder.append_row("val.csv", {"step": self.step, **numbers})
            self.meta.notes = {"step": self.step, "metrics": found.summary()}
            score = found.summary().get("segm/AP") or found.summary().get("bbox/AP") or 0.0
            save_weights(self.folder.weights("last"), self.model, self.meta)
            if self.best is None or score >= self.best:
                self.best = score
                save_weights(self.folder.weights("best"), self.model, self.meta)
        self.note(f"step {self.step}: " + headline(found.summary()))

    def save(self) -> None:
        """Writes the training state; where the disk is full, goes on and tries again later."""
        state = {
            "step": self.step,
            "phase": self.phase,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "skipped_in_a_row": self.skipped_in_a_row,
            "best": self.best,
            "measured_at": self.measured_at,
            "seconds": self.seconds,
            "seed": self.config.train.seed,
        }
        try:
            save_state(self.folder.state, state)
        except OSError as error:
            self.note(f"could not save the training state, will try again: {error}")
            if self.step >= self.steps:
                raise InputError(f"train: the last state was not saved: {error}") from error

    def restore(self) -> None:
        """Puts the newest valid state of the run folder back."""
        state, path, passed_over = load_state(self.folder.state)
        for why in passed_over:
            self.note(f"resume: passed over {why}")
        fill(self.model, state["model"], str(path))
        self.step, self.phase = state["step"], state["phase"]
        if self.phase >= 0 and hasattr(self.model.mask_branch, "switch_enabled"):
            self.model.mask_branch.switch_enabled = self.phase == 1
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.skipped_in_a_row, self.seconds = state["skipped_in_a_row"], state["seconds"]
        self.best = state["best"]
        for name in ("train.csv", "val.csv"):
            self.folder.keep_rows(name, lambda row: row["step"] <= self.step)
        self.note(f"resume: {path} at step {self.step} of {self.steps}")


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


class Stop:
    """Inside the block SIGTERM and Ctrl-C are noted and nothing more."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def name(self) -> str:
        return signal.Signals(self.signal).name if self.signal is not None else ""

    def __enter__(self) -> Stop:
        self.before = {}
        # elsewhere than in the main thread Python takes no handlers
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt  # asked twice: at once
        self.signal = number


def pick_device(name: str) -> torch.device:
    """The device of that name; auto: the first GPU, or the CPU where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device: {name!r} cannot be used: {reason}; fix: --device cpu") from error
    return device


def seed_everything(seed: int, step: int) -> None:
    """Makes all that is random in a step a function of (seed, step)."""
    mixed = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
    torch.manual_seed(mixed % 2**63)
    np.random.seed(mixed % 2**32)
    random.seed(mixed)


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


@contextmanager
def warnings_to(tell: Callable[[str], None]) -> Iterator[None]:
    """Inside the block warnings become lines of the log."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: tell(f"warning: {message}")
        yield


def headline(metrics: dict[str, Any]) -> str:
    """The numbers that matter, in a line."""
    parts = [
        f"{name} AP {100 * metrics[f'{name}/AP']:.1f}"
        for name in ("bbox", "segm", "boundary")
        if metrics.get(f"{name}/AP") is not None
    ]
    if metrics.get("mask_gflops") is not None:
        sizes = " ".join(f"{size}:{n}" for size, n in metrics["mask_size_hist"].items())
        parts.append(f"mask GFLOPs {metrics['mask_gflops']:.3g} ({sizes})")
    return ", ".join(parts) or "nothing detected"


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


def _to_device(target: dict[str, Any], device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return target
    return {k: v.to(device) if hasattr(v, "to") else v for k, v in target.items()}


def _plain(target: dict[str, Any]) -> dict[str, Any]:
    """A target of nothing but tensors and numbers, so that it loads with weights_only."""
    plain = dict(target)
    outlines = plain.pop("polygons")
    plain |= {f"polygons.{name}": getattr(outlines, name) for name in outlines._fields}
    return plain


def describe(config: Config, model: Detector, dataset: CocoDataset, device: torch.device) -> str:
    """What is about to be trained, in a line."""
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    return (
        f"{config.model.name} ({parameters:.1f} M parameters) on {device}, "
        f"{len(dataset)} images, {len(dataset.classes)} classes"
    )


def leave_pictures(
    folder: RunFolder, model: Detector, meta: Meta, dataset: CocoDataset, count: int
) -> None:
    """images/val_0001.jpg, ...: left the image, right the masks coloured by their size."""
    from PIL import Image

    config = meta.config
    for index in range(min(count, len(dataset))):
        image = dataset.image(index)
        found = predict(
            model,
            [image],
            short_side=config.data.eval_short_side,
            max_side=config.data.max_side,
            score=config.eval.score,
            classes=meta.classes,
        )[0]
        scale = max(1, round(512 / max(found.image_size)))
        right = found.plot(image, scale=scale)
        left = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(right.size)
        both = Image.new("RGB", (2 * right.width, right.height))
        both.paste(left, (0, 0))
        both.paste(right, (right.width, 0))
        content = io.BytesIO()
        both.save(content, "JPEG", quality=90)
        name = f"{config.eval.split}_{index + 1:04d}.jpg"
        write_atomic(folder.path / "images" / name, content.getvalue())
