"""What a perfect mask head would reach: true boxes, true classes, every cell of the grid right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dynamask import rle
from dynamask.evaluation.coco import coco_metrics
from dynamask.ops import RaggedMasks, encode_masks, mask_targets

if TYPE_CHECKING:
    from dynamask.data import CocoDataset


@dataclass
class Oracle:
    """Masks a perfect head would make of every object, one per mask size.

    Attributes:
        sizes: The mask sizes, rising.
        iou: With the true mask [G, K].
        results: Per size, COCO results of all objects, in the order of ``iou``.
        annotations: The objects.
    """

    sizes: Sequence[int]
    iou: Tensor
    results: list[list[dict[str, Any]]]
    annotations: list[dict[str, Any]]

    def needed(self, tolerance: float) -> Tensor:
        """Column of the smallest size whose IoU is within ``tolerance`` of the best [G]."""
        return (self.iou >= self.iou.amax(1, keepdim=True) - tolerance).int().argmax(1)

    def picked(self, columns: Tensor) -> list[dict[str, Any]]:
        """Results with a size per object."""
        return [self.results[k][n] for n, k in enumerate(columns.tolist())]


def oracle(dataset: CocoDataset, sizes: Sequence[int]) -> Oracle:
    """Makes the targets the model trains on and pastes them as its predictions are."""
    truth: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in dataset.image_ids}
    for annotation in dataset.ground_truth["annotations"]:
        if not annotation["iscrowd"]:
            truth[annotation["image_id"]].append(annotation)
    results: list[list[dict[str, Any]]] = [[] for _ in sizes]
    rows, kept = [], []
    for index, image_id in enumerate(dataset.image_ids):
        target, annotations = dataset.target(index), truth[image_id]
        if not annotations:
            continue
        height, width = target["original_size"]
        grids = mask_targets(target["polygons"], target["boxes"], None, tuple(sizes))
        wanted = [_run_lengths(a["segmentation"], height, width) for a in annotations]
        columns = []
        for k, grid in enumerate(grids):
            made = encode_masks(RaggedMasks.of(grid.float()), target["boxes"], (height, width))
            columns.append([float(rle.iou([a], [b])[0, 0]) for a, b in zip(made, wanted)])
            results[k] += [
                {"image_id": image_id, "category_id": annotation["category_id"], "score": 1.0}
                | {"segmentation": {"size": [height, width], "counts": mask["counts"].decode()}}
                for annotation, mask in zip(annotations, made)
            ]
        rows += list(zip(*columns))
        kept += annotations
    return Oracle(sizes, torch.tensor(rows).view(-1, len(sizes)), results, kept)


def oracle_curve(
    dataset: CocoDataset,
    perfect: Oracle,
    costs: Sequence[float],
    tolerances: Sequence[float] = (0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.0),
) -> list[dict[str, float]]:
    """AP against mean cost of a perfect head whose switch accepts so much loss of IoU."""
    price, curve = torch.tensor(costs), []
    for tolerance in tolerances:
        columns = perfect.needed(tolerance)
        metrics = coco_metrics(
            dataset.ground_truth, perfect.picked(columns), ["segm", "boundary"], dataset.image_ids
        )
        curve.append(
            {"tolerance": tolerance, "mask_gflops": float(price[columns].mean())}
            | {name: metrics.values[name] or 0.0 for name in ("segm/AP", "boundary/AP")}
        )
    return curve


def _run_lengths(segmentation: Any, height: int, width: int) -> Any:
    if isinstance(segmentation, list):
        return rle.from_polygons(segmentation, height, width)
    counts = segmentation["counts"]
    return {**segmentation, "counts": counts.encode() if isinstance(counts, str) else counts}
