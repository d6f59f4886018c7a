import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def coco_mini():
    """Photographs of COCO 2017, where this machine has them."""
    folder = os.environ.get("DYNAMASK_COCO_MINI") or ROOT.parent / "shared" / "data" / "coco-mini"
    if not Path(folder).is_dir():
        pytest.skip("the COCO photographs are not in the repository (set DYNAMASK_COCO_MINI)")
    return Path(folder)


def small_coco():
    """Two images, categories 3 and 90, a polygon, an uncompressed RLE and a crowd."""
    runs = [40 * 10, 40 * 5, 40 * 45]
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 40, "width": 60},
            {"id": 3, "file_name": "b.png", "height": 40, "width": 60},
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {
                "id": 11,
                "image_id": 7,
                "category_id": 90,
                "bbox": [10, 5, 20, 10],
                "area": 200,
                "iscrowd": 0,
                "segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]],
            },
            {
                "id": 12,
                "image_id": 7,
                "category_id": 3,
                "bbox": [10, 0, 5, 40],
                "area": 200,
                "iscrowd": 0,
                "segmentation": {"size": [40, 60], "counts": runs},
            },
            {
                "id": 13,
                "image_id": 7,
                "category_id": 3,
                "bbox": [10, 0, 5, 40],
                "area": 200,
                "iscrowd": 1,
                "segmentation": {"size": [40, 60], "counts": runs},
            },
        ],
    }


@pytest.fixture
def content():
    return small_coco()


@pytest.fixture
def write(tmp_path):
    """Writes a data set: write(content) -> folder."""

    def write(content, split="train"):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        images = tmp_path / "images" / split
        images.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(("a.png", "b.png")):
            pixels = np.full((40, 60, 3), 50 * number + 50, np.uint8)
            Image.fromarray(pixels).save(images / name)
        path = tmp_path / "annotations" / f"{split}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return write
