import numpy as np
import pytest
from pycocotools import mask as coco

from dynamask.benchmarks.bench_paste_masks import BASELINES, COUNT, HEIGHT, WIDTH, scene
from dynamask.benchmarks.harness import Case
from dynamask.ops import encode_masks


def cases():
    for mode, paste in BASELINES.items():
        for size in (28, 112):
            masks, boxes = scene(size)

            def ours(masks=masks, boxes=boxes, mode=mode):
                return encode_masks(masks, boxes, (HEIGHT, WIDTH), mode=mode)

            def baseline(masks=masks, boxes=boxes, paste=paste):
                frames = paste(masks, boxes).numpy()
                return [coco.encode(np.asfortranarray(frame, dtype=np.uint8)) for frame in frames]

            def check(ours=ours, baseline=baseline):
                assert ours() == baseline()

            yield Case(
                op="encode_masks",
                case=f"N={COUNT} M={size} {HEIGHT}x{WIDTH}",
                ours=ours,
                baseline=baseline,
                baseline_name=f"{mode} paste, pycocotools encode",
                check=check,
            )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_encode_masks(case, report):
    report(case)
