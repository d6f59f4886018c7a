"""Batches whose content depends on nothing but (seed, epoch, index)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dynamask.data.checks import DataError
from dynamask.data.coco import CocoDataset

Target = dict[str, Any]
Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]
Batch = tuple[list[Tensor], list[Target]]


def data_loader(
    dataset: CocoDataset,
    transform: Transform,
    batch_size: int,
    seed: int | None = None,
    workers: int = 0,
    *,
    first_step: int = 0,
    steps: int | None = None,
    max_unreadable: int = 0,
) -> Batches:
    """Reads, transforms and groups the images of a data set.

    With a seed it deals out one endless stream: every epoch is the whole data set in a new order,
    one behind the other, so all batches are full. Order and augmentation of the sample at place
    ``index`` of an epoch are functions of (seed, epoch, index): a run that is stopped after any
    step and resumed with ``first_step`` sees the same bits, with any number of workers.

    Without a seed it goes once through the data set in its order; the last batch may be smaller.

    Args:
        dataset: What to read.
        transform: Applied to every (image, target).
        batch_size: Images in a batch.
        seed: Of order and augmentation; None for evaluation.
        workers: Processes that read. 0: the calling process.
        first_step: Batches to leave out at the beginning.
        steps: Batches to deal out; by default up to the end of the epoch in which ``first_step``
            lies.
        max_unreadable: How many image files may turn out to be unreadable while training. Their
            places are taken by the images behind them in the order; each is warned of once. One
            more stops with the error of ``read_image``.

    Returns:
        An iterable of (images, targets), two lists; ``len`` of it is the number of batches, its
        attribute ``unreadable`` the images that could not be read so far.
    """
    if batch_size < 1:
        raise ValueError(f"data_loader: expected batch_size >= 1, got {batch_size}")
    if len(dataset) == 0:
        raise DataError(f"data: {dataset.annotations} has no images: the data set is empty")
    per_epoch = steps_per_epoch(len(dataset), batch_size)
    if steps is None:
        steps = per_epoch - first_step % per_epoch
    samples = _Samples(dataset, transform, seed, patient=max_unreadable > 0)
    return Batches(samples, batch_size, first_step, steps, workers, max_unreadable)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches in which all images have been seen once."""
    return math.ceil(images / batch_size)


class Batches:
    """What ``data_loader`` returns."""

    def __init__(
        self,
        samples: _Samples,
        batch_size: int,
        first_step: int,
        steps: int,
        workers: int,
        max_unreadable: int,
    ) -> None:
        self.unreadable: dict[int, str] = {}
        self._max_unreadable = max_unreadable
        self._steps = steps
        places = range(first_step * batch_size, (first_step + steps) * batch_size)
        if samples.seed is None:
            places = range(places.start, min(places.stop, len(samples.dataset)))
        groups = [places[k : k + batch_size] for k in range(0, len(places), batch_size)]
        self._steps = len(groups)
        self._loader: DataLoader = DataLoader(
            samples,
            batch_sampler=cast(Any, groups),
            num_workers=workers,
            collate_fn=_as_lists,
            # the default base seed is drawn from the global generator and would move it
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        for images, targets, failures in self._loader:
            self._count(failures)
            yield images, targets

    def _count(self, failures: dict[int, str]) -> None:
        for index, message in failures.items():
            if index in self.unreadable:
                continue
            self.unreadable[index] = message
            if len(self.unreadable) > self._max_unreadable:
                raise DataError(
                    f"{message}\n  {len(self.unreadable)} images could not be read, "
                    f"{self._max_unreadable} were allowed"
                )
            warnings.warn(message, stacklevel=3)


class _Samples(Dataset):
    """The stream of samples by place: place p is index p % N of epoch p // N."""

    def __init__(
        self, dataset: CocoDataset, transform: Transform, seed: int | None, patient: bool
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.patient = patient

    def __getitem__(self, place: int) -> tuple[Tensor, Target, dict[int, str]]:
        count = len(self.dataset)
        failures: dict[int, str] = {}
        for index in (self._index(place, shift) for shift in range(count)):
            try:
                image = self.dataset.image(index)
            except DataError as error:
                if not self.patient:
                    raise
                failures[index] = str(error)
                continue
            return *self._transformed(image, self.dataset.target(index), place), failures
        raise DataError(f"data: none of the {count} images in {self.dataset.images} can be read")

    def _index(self, place: int, shift: int) -> int:
        epoch, index = divmod(place, len(self.dataset))
        at = (index + shift) % len(self.dataset)
        return at if self.seed is None else shuffled(self.seed, epoch, len(self.dataset))[at]

    def _transformed(self, image: Tensor, target: Target, place: int) -> tuple[Tensor, Target]:
        if self.seed is None:
            return self.transform(image, target)
        epoch, index = divmod(place, len(self.dataset))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mix(self.seed, epoch, index + 1))
            return self.transform(image, target)


@lru_cache(maxsize=2)
def shuffled(seed: int, epoch: int, count: int) -> list[int]:
    """The order of an epoch."""
    generator = torch.Generator().manual_seed(_mix(seed, epoch, 0))
    return torch.randperm(count, generator=generator).tolist()


def _mix(seed: int, epoch: int, index: int) -> int:
    """One number from three, such that neighbours have nothing in common."""
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0] >> 1)


def _as_lists(
    samples: list[tuple[Tensor, Target, dict[int, str]]],
) -> tuple[list[Tensor], list[Target], dict[int, str]]:
    failures = {index: text for sample in samples for index, text in sample[2].items()}
    return [sample[0] for sample in samples], [sample[1] for sample in samples], failures
