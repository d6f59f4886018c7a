"""Learning rate, optimizer and averaged weights."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dynamask.config import OptimConfig


def learning_rate(optim: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of step number ``step``, from 0, of a phase of ``steps``.

    It has no state, so a run that goes on after a stop needs the number of its step and no more.
    """
    warmup = min(optim.warmup_steps, steps // 2)
    if step < warmup:
        return optim.lr * (optim.warmup_factor + (1 - optim.warmup_factor) * step / warmup)
    share = step / steps
    if optim.schedule == "step":
        return optim.lr * optim.gamma ** bisect.bisect_right(sorted(optim.milestones), share)
    if optim.schedule == "cosine":
        return optim.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    return optim.lr


def make_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer of all trainable parameters; vectors (biases, norms) are not decayed."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if optim.name == "sgd":
        return torch.optim.SGD(groups, optim.lr, momentum=optim.momentum)
    return torch.optim.AdamW(groups, optim.lr)


class AveragedWeights:
    """An exponential moving average of everything a model learns, its buffers included.

    Args:
        model: What is averaged.
        decay: Share of the old average kept per step; it starts lower, so that the first weights
            are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self.updates = 0
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        old, new = [], []
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                old.append(self.average[key])
                new.append(value.detach())
            else:
                self.average[key].copy_(value)
        torch._foreach_lerp_(old, new, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        own = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        for key, value in state["average"].items():
            self.average[key].copy_(value)
