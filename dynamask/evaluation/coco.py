"""COCO average precision of boxes, masks and mask boundaries, all from run lengths.

The counting is faster-coco-eval's, whose numbers are pycocotools' (tests/test_evaluate.py); the
boundary IoU is that of Cheng et al., "Boundary IoU", CVPR 2021: the smaller of mask IoU and IoU of
the bands within 2 % of the image diagonal from the outline.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# positions in the evaluator's list of numbers
_SUMMARY = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5, "AR100": 8}
METRICS = ("bbox", "segm", "boundary")


@dataclass
class CocoMetrics:
    """What COCO evaluation says.

    Attributes:
        values: ``segm/AP``, ``segm/AP50``, ... between 0 and 1; None where there is nothing to
            find, as large objects in a set without any.
        per_class: For each category its name, id, number of objects and AP of each metric.
        dropped: Results left out because a score or box was not finite.
        precision50: For each metric the precision at an IoU of 0.5, a mean over the classes, at
            the 101 recalls 0, 0.01, ... 1.
    """

    values: dict[str, float | None] = field(default_factory=dict)
    per_class: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0
    precision50: dict[str, list[float]] = field(default_factory=dict)


def coco_metrics(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    metrics: Sequence[str] = METRICS,
    image_ids: Sequence[int] | None = None,
) -> CocoMetrics:
    """Average precision of COCO results, 100 detections per image.

    Args:
        ground_truth: A COCO data set: images, annotations, categories.
        results: As in a COCO results file: image_id, category_id, bbox (x, y, width, height),
            score, and segmentation (run lengths) for segm and boundary.
        metrics: Which of bbox, segm, boundary.
        image_ids: Count these images only, whether they have objects or not.
    """
    kept = [result for result in results if _is_finite(result)]
    out = CocoMetrics(dropped=len(results) - len(kept))
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    images = [image["id"] for image in ground_truth["images"]] if image_ids is None else image_ids
    out.per_class = _object_counts(ground_truth, categories, set(images))
    for metric in metrics:
        evaluator = _evaluate(ground_truth, kept, metric, images)
        for name, position in _SUMMARY.items():
            out.values[f"{metric}/{name}"] = _known(evaluator.stats[position])
        precision = np.asarray(evaluator.eval["precision"])  # [IoU, recall, class, area, limit]
        # the evaluator lays its flat result out over these five
        precision = precision.reshape(evaluator.eval["counts"])
        for row, of_class in zip(out.per_class, precision[:, :, :, 0, -1].transpose(2, 0, 1)):
            seen = of_class[of_class > -1]
            row[f"{metric}/AP"] = float(seen.mean()) if seen.size else None
        at_half = precision[0, :, :, 0, -1]  # [recall, class], -1 for a class without objects
        at_half = at_half[:, (at_half > -1).all(0)]
        if at_half.size:
            out.precision50[metric] = at_half.mean(1).tolist()
    return out


def _evaluate(
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    metric: str,
    image_ids: Sequence[int],
) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    if metric != "bbox":
        # with a bbox the size of an object would be that of its box, not of its mask
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
    # copies, because the evaluator writes into them; from 1, because it takes id 0 for "no match"
    annotations = [{**a, "id": i} for i, a in enumerate(ground_truth["annotations"], start=1)]
    truth = COCO({**ground_truth, "annotations": annotations})
    found = truth.loadRes([dict(result) for result in results])
    evaluator = COCOeval_faster(truth, found, metric, print_function=logging.debug)
    evaluator.params.imgIds = list(image_ids)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


def _object_counts(
    ground_truth: dict[str, Any], categories: list[dict[str, Any]], images: set[int]
) -> list[dict[str, Any]]:
    counts = {category["id"]: 0 for category in categories}
    for annotation in ground_truth["annotations"]:
        if annotation["image_id"] in images and not annotation.get("iscrowd", 0):
            counts[annotation["category_id"]] += 1
    return [
        {
            "class": category["name"],
            "category_id": category["id"],
            "objects": counts[category["id"]],
        }
        for category in categories
    ]


def _is_finite(result: dict[str, Any]) -> bool:
    return all(map(math.isfinite, [result["score"], *result.get("bbox", [])]))


def _known(value: float) -> float | None:
    return None if value < 0 else float(value)
