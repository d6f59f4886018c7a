import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynamask.evaluation import coco_metrics

POSITIONS = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5, "AR100": 8}


def run_lengths(mask):
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def random_set(seed, first_id=1):
    """Ragged squares with holes on a few images, some crowds, and detections near them."""
    random = np.random.default_rng(seed)
    images = [
        {"id": int(i), "height": 60, "width": 80, "file_name": f"{i}.jpg"}
        for i in random.permutation(50)[:8]
    ]
    categories = [{"id": int(c), "name": f"c{c}"} for c in random.permutation(90)[:4]]
    annotations, results = [], []
    for image in images:
        for _ in range(random.integers(0, 6)):
            mask = np.zeros((60, 80), np.uint8)
            x, y, w, h = *random.integers(0, 40, 2), *random.integers(3, 20, 2)
            mask[y : y + h, x : x + w] = random.random((h, w)) < 0.9
            category = int(random.choice([c["id"] for c in categories]))
            annotations.append(
                {
                    "id": first_id + len(annotations),
                    "image_id": image["id"],
                    "category_id": category,
                    "iscrowd": int(random.random() < 0.15),
                    "area": float(mask.sum()),
                    "bbox": coco_mask.toBbox(run_lengths(mask)).tolist(),
                    "segmentation": run_lengths(mask),
                }
            )
            for _ in range(random.integers(0, 3)):
                moved = run_lengths(np.roll(mask, tuple(random.integers(-2, 3, 2)), (0, 1)))
                other = categories[0]["id"]
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": category if random.random() < 0.9 else other,
                        "bbox": coco_mask.toBbox(moved).tolist(),
                        "segmentation": moved,
                        "score": float(random.random()),
                    }
                )
    return {"images": images, "annotations": annotations, "categories": categories}, results


def pycocotools_stats(ground_truth, results, metric):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(ground_truth))
        truth.createIndex()
        kept = [{k: v for k, v in r.items() if metric == "bbox" or k != "bbox"} for r in results]
        evaluator = COCOeval(truth, truth.loadRes(json.loads(json.dumps(kept))), metric)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("metric", ["bbox", "segm"])
def test_equals_pycocotools(seed, metric):
    ground_truth, results = random_set(seed)
    ours = coco_metrics(ground_truth, results, [metric])
    theirs = pycocotools_stats(ground_truth, results, metric)
    for name, position in POSITIONS.items():
        value = ours.values[f"{metric}/{name}"]
        assert (-1 if value is None else value) == pytest.approx(theirs.stats[position], abs=1e-12)
    precision = theirs.eval["precision"][:, :, :, 0, -1]
    for k, row in enumerate(ours.per_class):
        of_class = precision[:, :, k]
        wanted = of_class[of_class > -1].mean() if (of_class > -1).any() else None
        assert row[f"{metric}/AP"] == pytest.approx(wanted, abs=1e-12)
        assert row["category_id"] == sorted(c["id"] for c in ground_truth["categories"])[k]


def test_annotation_id_zero_counts():
    ground_truth, results = random_set(3, first_id=1)
    from_zero, _ = random_set(3, first_id=0)
    assert coco_metrics(from_zero, results).values == coco_metrics(ground_truth, results).values


def test_perfect_detections():
    ground_truth, _ = random_set(5)
    perfect = [{**a, "score": 0.9} for a in ground_truth["annotations"] if not a["iscrowd"]]
    values = coco_metrics(ground_truth, perfect).values
    assert values["bbox/AP"] == values["segm/AP"] == values["boundary/AP"] == pytest.approx(1)


def test_boundary_is_stricter_than_mask():
    """A 20 x 20 square found 2 pixels off: mask IoU 18/22; its 1-pixel rim meets at two sides."""
    square = np.zeros((40, 40), np.uint8)
    square[10:30, 10:30] = 1
    off = np.roll(square, 2, axis=1)
    image = {"id": 7, "height": 40, "width": 40, "file_name": "a.png"}
    truth = {
        "images": [image],
        "categories": [{"id": 3, "name": "square"}],
        "annotations": [
            {"id": 0, "image_id": 7, "category_id": 3, "iscrowd": 0, "area": 400.0}
            | {"bbox": [10, 10, 20, 20], "segmentation": run_lengths(square)}
        ],
    }
    found = [{"image_id": 7, "category_id": 3, "score": 0.5, "segmentation": run_lengths(off)}]
    values = coco_metrics(truth, found, ["segm", "boundary"]).values
    assert values["segm/AP"] == pytest.approx(0.7)  # IoU 0.818 passes .5, .55, ... .8
    assert values["boundary/AP"] == 0


def test_no_detections_is_zero_not_a_crash():
    ground_truth, _ = random_set(2)
    values = coco_metrics(ground_truth, []).values
    assert values["bbox/AP"] == values["segm/AP"] == values["boundary/AP"] == 0


def test_nothing_to_find_is_none():
    ground_truth, results = random_set(2)
    values = coco_metrics({**ground_truth, "annotations": []}, results).values
    assert values["segm/AP"] is None


def test_results_that_are_not_finite_are_dropped_and_counted():
    ground_truth, results = random_set(4)
    broken = [
        {**results[0], "score": float("nan")},
        {**results[0], "bbox": [0, 0, float("inf"), 1]},
    ]
    metrics = coco_metrics(ground_truth, results + broken)
    assert metrics.dropped == 2
    assert metrics.values == coco_metrics(ground_truth, results).values


def test_only_the_images_asked_for():
    ground_truth, results = random_set(6)
    image = ground_truth["images"][0]["id"]
    part = {
        **ground_truth,
        "images": ground_truth["images"][:1],
        "annotations": [a for a in ground_truth["annotations"] if a["image_id"] == image],
    }
    of_image = [r for r in results if r["image_id"] == image]
    asked = coco_metrics(ground_truth, results, image_ids=[image])
    assert asked.values == coco_metrics(part, of_image).values
    assert sum(row["objects"] for row in asked.per_class) <= len(part["annotations"])
