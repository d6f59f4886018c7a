"""How good a network is on a data set, and what its masks cost."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dynamask.data.transforms import EvalTransform
from dynamask.device import pick_device, pick_dtype
from dynamask.errors import InputError
from dynamask.evaluation.coco import METRICS, CocoMetrics, coco_metrics
from dynamask.files import write_atomic
from dynamask.progress import Progress
from dynamask.run_folder import to_csv

if TYPE_CHECKING:
    from dynamask.data import CocoDataset
    from dynamask.models.detector import Detector


@dataclass
class Evaluation:
    """Numbers of one pass over a data set.

    Attributes:
        coco: Average precision, in all and per class.
        mask_gflops: Mean compute of an instance's mask, from the multiply-accumulates executed
            (in G; the paper calls them FLOPs). None if nothing was detected.
        mask_size_hist: How many instances got each mask size.
        images: Images seen.
        seconds: Wall time of the network and the encoding of its masks.
        predictions: All detections, as in a COCO results file, with ``mask_size``.
    """

    coco: CocoMetrics
    mask_gflops: float | None
    mask_size_hist: dict[int, int]
    images: int
    seconds: float
    predictions: list[dict[str, Any]] = field(repr=False, default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.summary()[name]

    def summary(self) -> dict[str, Any]:
        """The headline numbers by name: ``segm/AP``, ``mask_gflops``, ..."""
        return {
            **self.coco.values,
            "mask_gflops": self.mask_gflops,
            "mask_size_hist": self.mask_size_hist,
            "instances": len(self.predictions),
            "dropped": self.coco.dropped,
            "images": self.images,
            "seconds": self.seconds,
        }


@torch.no_grad()
def evaluate(
    model: Detector,
    dataset: CocoDataset,
    *,
    short_side: int,
    max_side: int,
    batch_size: int = 4,
    metrics: Sequence[str] = METRICS,
    limit: int | None = None,
    what: str = "eval",
    precision: str = "fp32",
) -> Evaluation:
    """Runs ``model`` over ``dataset`` and measures it.

    Masks go from their small grids straight to run lengths, so memory does not grow with the size
    of the images.

    Args:
        model: The network, on any device.
        dataset: The images, and what is in them.
        short_side: Images are resized to this shorter side, unless
        max_side: would be exceeded by the longer one. In pixels.
        batch_size: Images in a batch.
        metrics: Which of bbox, segm, boundary.
        limit: The first so many images only.
        what: Name on the progress bar.
        precision: Of weights and feature maps: fp32 or bf16.
    """
    network = model.fused(pick_dtype(precision))
    device = next(network.parameters()).device
    transform = EvalTransform(short_side, max_side)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    results: list[dict[str, Any]] = []
    sizes: Counter[int] = Counter()
    macs, seconds = 0, 0.0
    with Progress(what, count) as progress:
        for first in range(0, count, batch_size):
            indices = range(first, min(first + batch_size, count))
            samples = [transform(*dataset[i]) for i in indices]
            start = time.perf_counter()
            predictions = network([image.to(device) for image, _ in samples])
            macs += executed_macs(network)
            for (_, target), prediction in zip(samples, predictions):
                prediction = prediction.to("cpu").resized(*target["original_size"])
                sizes.update(prediction.mask_size.tolist())
                results += prediction.to_coco(int(target["image_id"]), dataset.category_ids)
            seconds += time.perf_counter() - start
            progress.update(indices[-1] + 1)
    image_ids = [dataset.image_ids[i] for i in range(count)]
    return Evaluation(
        coco=coco_metrics(dataset.ground_truth, results, metrics, image_ids),
        mask_gflops=macs / len(results) / 1e9 if results else None,
        mask_size_hist={size: sizes[size] for size in sorted(sizes)},
        images=count,
        seconds=seconds,
        predictions=results,
    )


def write_evaluation(folder: Path, found: Evaluation) -> None:
    """metrics.json, per_class.csv, mask_size_hist.json and predictions.coco.json.gz."""
    write_atomic(folder / "metrics.json", json.dumps(found.summary(), indent=2) + "\n")
    write_atomic(folder / "per_class.csv", to_csv(found.coco.per_class))
    write_atomic(folder / "mask_size_hist.json", json.dumps(found.mask_size_hist) + "\n")
    packed = gzip.compress(json.dumps(found.predictions).encode(), mtime=0)
    write_atomic(folder / "predictions.coco.json.gz", packed)


def evaluate_weights(
    source: str | Path,
    data: str | None = None,
    *,
    split: str = "val",
    metrics: Sequence[str] = METRICS,
    limit: int | None = None,
    batch_size: int = 4,
    mask_size: int | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Measures saved weights on a data set; image sizes are those of the weights' config.

    Args:
        source: Run folder, weights file or name of bundled weights.
        data: The data set; None: that of the training.
        split: train or val.
        metrics: Which of bbox, segm, boundary.
        limit: The first so many images only.
        batch_size: Images in a batch.
        mask_size: Give every instance this mask size instead of choosing.
        device: cpu, cuda, or auto.
        out: Also write metrics, predictions and tables to this folder.
        precision: Of weights and feature maps: fp32 or bf16.

    Returns:
        :meth:`Evaluation.summary`, what was measured, and AP per class.
    """
    from dynamask.checkpoint import check_classes, choose_mask_size, load_model
    from dynamask.data import open_dataset

    for name in metrics:
        if name not in METRICS:
            raise InputError(f"eval: no metric {name!r}; there are {', '.join(METRICS)}")
    model, meta = load_model(source)
    config = meta.config
    data = config.data.source if data is None else data
    dataset = open_dataset(data, split, on_error=config.data.on_error)
    check_classes(meta, dataset.classes, str(source), data)
    if mask_size is not None:
        choose_mask_size(model, mask_size)
    model.to(pick_device(device))
    found = evaluate(
        model,
        dataset,
        short_side=config.data.eval_short_side,
        max_side=config.data.max_side,
        batch_size=batch_size,
        metrics=metrics,
        limit=limit,
        precision=precision,
    )
    if out is not None:
        write_evaluation(Path(out), found)
    asked = {"weights": str(source), "data": data, "split": split, "mask_size": mask_size}
    return {**found.summary(), **asked, "per_class": found.coco.per_class}


def executed_macs(model: Detector) -> int:
    """Multiply-accumulates the mask branch spent on the last batch."""
    branch: Any = model.mask_branch
    return int(branch.last_macs)


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
