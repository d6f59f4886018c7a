"""Which class was taken for which."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou


def confusion(
    ground_truth: dict[str, Any], results: Sequence[dict[str, Any]], score: float, iou: float = 0.5
) -> np.ndarray:
    """Counts pairs of true and found class.

    Each result of at least ``score``, the surest first, takes the free object whose box it overlaps
    most, if by ``iou`` or more. Crowds are left out.

    Args:
        ground_truth: A COCO data set.
        results: As in a COCO results file. Only images that occur in it are counted.
        score: Results less sure than this are left out.
        iou: Least overlap of boxes that belong together.

    Returns:
        Counts [C + 1, C + 1], true class by found class in the order of category ids; the last row
        is nothing there, the last column nothing found.
    """
    ids = sorted(category["id"] for category in ground_truth["categories"])
    index = {category: k for k, category in enumerate(ids)}
    counts = np.zeros((len(ids) + 1, len(ids) + 1), dtype=np.int64)
    objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        kept = found[result["image_id"]]
        if result["score"] >= score:
            kept.append(result)
    for annotation in ground_truth["annotations"]:
        if annotation["image_id"] in found and not annotation.get("iscrowd"):
            objects[annotation["image_id"]].append(annotation)
    for image, detections in found.items():
        detections.sort(key=lambda result: -result["score"])
        overlap = box_iou(_corners(detections), _corners(objects[image]))
        free = torch.ones(len(objects[image]), dtype=torch.bool)
        for row, result in zip(overlap, detections):
            best = int((row * free).argmax()) if free.any() else -1
            true = len(ids)
            if best >= 0 and free[best] and row[best] >= iou:
                true, free[best] = index[objects[image][best]["category_id"]], False
            counts[true, index[result["category_id"]]] += 1
        for missed in free.nonzero().flatten().tolist():
            counts[index[objects[image][missed]["category_id"]], len(ids)] += 1
    return counts


def _corners(entries: Sequence[dict[str, Any]]) -> torch.Tensor:
    boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64).view(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
