"""One object for the whole job, over the same plain functions the command line calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamask.checkpoint import Meta, choose_mask_size, load_model, save_weights
from dynamask.config import config_from_dict, load_config
from dynamask.data import open_dataset
from dynamask.device import pick_device, pick_dtype
from dynamask.evaluate import Evaluation, evaluate
from dynamask.evaluation.coco import METRICS
from dynamask.predict import predict
from dynamask.prediction import Prediction
from dynamask.train import Run, train

if TYPE_CHECKING:
    from dynamask.models.detector import Detector


class DynaMask:
    """A network with what is needed to use it.

    >>> model = DynaMask("runs/2026-11-20-shapes-mini-dynamask_tiny-01")
    >>> found = model.predict("street.jpg", score=0.5)
    >>> found.mask_size, found.polygons()

    Args:
        source: Run folder, weights file, or name of weights that come with the package.
        device: cpu, cuda, cuda:1, or auto.

    Attributes:
        module: The network, a plain nn.Module: ``module(images, targets)`` gives losses in training
            mode and predictions otherwise.
        meta: Config, classes and category ids.

    Raises:
        InputError: if the weights cannot be used.
    """

    def __init__(self, source: str | Path, *, device: str = "auto") -> None:
        self.module: Detector
        self.meta: Meta
        self.module, self.meta = load_model(source)
        self.module.to(pick_device(device))
        self.source = str(source)
        self._fused: Detector
        self._fused_of: list[Any] = []

    @property
    def classes(self) -> list[str]:
        return self.meta.classes

    def use_mask_size(self, size: int | None) -> None:
        """Gives every instance this mask size; with None the switch chooses again."""
        choose_mask_size(self.module, size)

    def fused(self, precision: str = "fp32") -> Detector:
        """The inference form of ``module``, made anew when its weights or mask sizes change.

        Args:
            precision: Of weights and feature maps: fp32 or bf16.
        """
        tensors = self.module.state_dict().values()
        mode = getattr(getattr(self.module.mask_branch, "selector", None), "mode", None)
        made_of = [precision, mode, *((t.device, t.data_ptr(), t._version) for t in tensors)]
        if made_of != self._fused_of:
            self._fused, self._fused_of = self.module.fused(pick_dtype(precision)), made_of
        return self._fused

    def predict(
        self, images: Any, *, score: float = 0.5, batch_size: int = 1, precision: str = "fp32"
    ) -> Any:
        """The objects in an image (a :class:`Prediction`) or in a list of them (a list).

        Args:
            images: A path, Pillow image, array [H, W, 3] uint8 or tensor [3, H, W]; or a list.
            score: Objects below it are left out.
            batch_size: Images in a batch.
            precision: Of weights and feature maps: fp32 or bf16.
        """
        several = isinstance(images, list | tuple)
        data = self.meta.config.data
        found: list[Prediction] = predict(
            self.fused(precision),
            images if several else [images],
            short_side=data.eval_short_side,
            max_side=data.max_side,
            score=score,
            batch_size=batch_size,
            classes=self.meta.classes,
        )
        return found if several else found[0]

    def evaluate(
        self,
        data: str | Path | None = None,
        *,
        split: str = "val",
        metrics: Sequence[str] = METRICS,
        limit: int | None = None,
        precision: str = "fp32",
    ) -> Evaluation:
        """Measures the network: ``found["segm/AP"]``, ``found["mask_gflops"]``, ...

        Args:
            data: The data set; None: that of the training.
            split: train or val.
            metrics: Which of bbox, segm, boundary.
            limit: The first so many images only.
            precision: Of weights and feature maps: fp32 or bf16.
        """
        config = self.meta.config
        source = config.data.source if data is None else data
        return evaluate(
            self.module,
            open_dataset(source, split, on_error=config.data.on_error),
            short_side=config.data.eval_short_side,
            max_side=config.data.max_side,
            metrics=metrics,
            limit=limit,
            precision=precision,
        )

    def train(self, data: str | Path, options: Mapping[str, Any] | None = None) -> Run:
        """Goes on training from these weights on a data set with the same classes.

        Args:
            data: Folder in a COCO layout, or the name of a built-in data set.
            options: Dotted options over the config of the weights: ``{"train.epochs": 3}``.

        Returns:
            The run; this object has its weights then.
        """
        given = {"model.weights": self.source, "data.source": str(data), **(options or {})}
        base = config_from_dict(self.meta.config.to_dict(), self.source)
        run = train(load_config(overrides=given, base=base))
        self.module, self.meta, self.source = run.model, run.meta, str(run.path)
        return run

    def save(self, path: str | Path) -> None:
        """Writes the weights with config and classes in the header."""
        save_weights(path, self.module, self.meta)
