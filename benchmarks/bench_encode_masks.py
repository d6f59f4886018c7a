import numpy as np
import pytest
from pycocotools import mask as coco

from dynamask.benchmarks.bench_paste_masks import (
    COUNT,
    HEIGHT,
    WIDTH,
    crop_detectron2,
    paste_detectron2,
    paste_torchvision,
    scene,
)
from dynamask.benchmarks.harness import Case
from dynamask.ops import encode_masks


def encode_frames(paste):
    """Frames of all masks at once, then pycocotools: what detectron2's evaluation does."""

    def encode(masks, boxes):
        frames = paste(masks, boxes).numpy()
        return [coco.encode(np.asfortranarray(frame, dtype=np.uint8)) for frame in frames]

    return encode


def encode_one_frame(masks, boxes):
    """detectron2's crops in one frame for all masks, in the order pycocotools reads."""
    frame, encoded = np.zeros((HEIGHT, WIDTH), np.uint8, order="F"), []
    for mask, box in zip(masks, boxes):
        (rows, columns), pasted = crop_detectron2(mask, box)
        frame[rows, columns] = pasted.numpy()
        encoded.append(coco.encode(frame))
        frame[rows, columns] = 0
    return encoded


BASELINE_ENCODERS = {
    "detectron2 paste, pycocotools encode": ("detectron2", encode_frames(paste_detectron2)),
    "paste in the box, pycocotools encode": ("detectron2", encode_one_frame),
    "torchvision paste, pycocotools encode": ("torchvision", encode_frames(paste_torchvision)),
}


def cases():
    for name, (mode, encode) in BASELINE_ENCODERS.items():
        for size in (28, 112):
            masks, boxes = scene(size)

            def ours(masks=masks, boxes=boxes, mode=mode):
                return encode_masks(masks, boxes, (HEIGHT, WIDTH), mode=mode)

            def baseline(masks=masks, boxes=boxes, encode=encode):
                return encode(masks, boxes)

            def check(ours=ours, baseline=baseline):
                assert ours() == baseline()

            yield Case(
                op="encode_masks",
                case=f"N={COUNT} M={size} {HEIGHT}x{WIDTH}",
                ours=ours,
                baseline=baseline,
                baseline_name=name,
                check=check,
            )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_encode_masks(case, report):
    report(case)
