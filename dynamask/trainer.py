"""The state of a training, and what one step does to it."""

from __future__ import annotations

import io
import math
import random
import time
from collections.abc import Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dynamask.checkpoint import Meta, fill, load_state, save_state, save_weights
from dynamask.config import Config
from dynamask.data import CocoDataset, TrainTransform, data_loader, steps_per_epoch
from dynamask.errors import InputError
from dynamask.evaluate import Evaluation, evaluate, headline
from dynamask.files import write_atomic
from dynamask.optimization import AveragedWeights, learning_rate, make_optimizer
from dynamask.progress import say
from dynamask.run_folder import RunFolder

if TYPE_CHECKING:
    from dynamask.models.detector import Detector

Batch = tuple[list[torch.Tensor], list[dict[str, Any]]]


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


def seed_everything(seed: int, step: int) -> None:
    """Makes all that is random in a step a function of (seed, step)."""
    mixed = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
    torch.manual_seed(mixed % 2**63)
    np.random.seed(mixed % 2**32)
    random.seed(mixed)


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
