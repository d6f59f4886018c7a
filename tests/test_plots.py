import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from dynamask.evaluation.coco import coco_metrics
from dynamask.evaluation.confusion import confusion
from dynamask.plots import alone, confusion_chart


def annotation(id, category, box, **more):
    return {"id": id, "image_id": 1, "category_id": category, "bbox": box, "area": 100, **more}


TRUTH = {
    "images": [{"id": 1, "width": 100, "height": 100}],
    "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    "annotations": [
        annotation(1, 7, [0, 0, 10, 10], iscrowd=0),
        annotation(2, 3, [50, 50, 10, 10], iscrowd=0),
        annotation(3, 3, [80, 80, 10, 10], iscrowd=1),
    ],
}


def result(category, box, score=0.9):
    return {"image_id": 1, "category_id": category, "bbox": box, "score": score}


def test_confusion_by_hand():
    found = [
        result(7, [0, 0, 10, 9]),  # the cat
        result(7, [50, 50, 10, 10]),  # the dog, taken for a cat
        result(3, [50, 50, 10, 10], 0.8),  # the dog again: nothing is left there
        result(3, [0, 0, 10, 10], 0.1),  # too unsure to count
    ]
    counts = confusion(TRUTH, found, score=0.5)
    assert counts.tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]  # dog, cat, nothing


def test_confusion_counts_what_was_missed():
    counts = confusion(TRUTH, [result(7, [0, 0, 10, 10], 0.2)], score=0.5)
    assert counts.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_confusion_of_nothing():
    assert confusion(TRUTH, [], score=0.5).sum() == 0
    assert confusion_chart(confusion(TRUTH, [], 0.5), ["dog", "cat"]) == ""


def test_precision_at_half_overlap_is_one_until_the_last_object():
    metrics = coco_metrics(TRUTH, [result(7, [0, 0, 10, 10])], ["bbox"])
    curve = metrics.precision50["bbox"]
    # one class found whole, the other not at all
    assert curve == pytest.approx([0.5] * 101)
    assert np.mean(curve) == pytest.approx(metrics.values["bbox/AP50"])


def test_a_plot_is_a_picture_of_its_own():
    chart = confusion_chart(np.array([[3, 1, 0], [0, 2, 2], [1, 0, 0]]), ["a & b", "c"])
    root = ElementTree.fromstring(alone(chart + "<p>legend</p>"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "a & b" in "".join(root.itertext())
