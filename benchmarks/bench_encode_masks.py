import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from dynamask.benchmarks.bench_paste_masks import (
    BASELINES,
    COUNT,
    HEIGHT,
    WIDTH,
    assert_same_pixels,
    crop_detectron2,
    scene,
)
from dynamask.benchmarks.harness import Case, on_gpu
from dynamask.ops import encode_masks


def encode_frames(paste):
    """Frames of all masks at once, then pycocotools: what detectron2's evaluation does."""

    def encode(masks, boxes):
        frames = paste(masks, boxes).cpu().numpy()
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
    f"{mode} paste, pycocotools encode": (mode, encode_frames(paste))
    for mode, paste in BASELINES.items()
}
if not on_gpu():
    BASELINE_ENCODERS["paste in the box, pycocotools encode"] = ("detectron2", encode_one_frame)


def check(ours, theirs):
    """The same bytes on the CPU, about the same pixels on a GPU."""
    if not on_gpu():
        assert ours == theirs
    frames = (np.stack([coco.decode(mask) for mask in masks]) for masks in (ours, theirs))
    assert_same_pixels(*map(torch.from_numpy, frames))


def cases():
    for name, (mode, encode) in BASELINE_ENCODERS.items():
        for size in (28, 112):
            masks, boxes = scene(size)

            def ours(masks=masks, boxes=boxes, mode=mode):
                return encode_masks(masks, boxes, (HEIGHT, WIDTH), mode=mode)

            def baseline(masks=masks, boxes=boxes, encode=encode):
                return encode(masks, boxes)

            yield Case(
                op="encode_masks",
                case=f"N={COUNT} M={size} {HEIGHT}x{WIDTH}",
                ours=ours,
                baseline=baseline,
                baseline_name=name,
                check=lambda a=ours, b=baseline: check(a(), b()),
            )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_encode_masks(case, report):
    report(case)
