import pytest
import torch

from dynamask.reference.encode_masks import encode_masks as reference

from .conftest import SANITIZERS, SanitizerError
from .test_paste_masks import HEIGHT, MODES, WIDTH, arguments, scene

FEW = {"kEncodeThreads = 128": "kEncodeThreads = 64"}


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_matches_reference(hostcuda, sanitizer):
    driver = hostcuda("encode_masks", sanitizer, FEW)
    masks, boxes = scene()
    for mode in MODES:
        data = driver.run(*arguments(masks, boxes, mode))
        offsets = torch.frombuffer(bytearray(data[: 8 * (len(boxes) + 1)]), dtype=torch.int64)
        text = data[8 * (len(boxes) + 1) :]
        expected = reference(masks.split(), boxes, (HEIGHT, WIDTH), mode=mode)
        for n, rle in enumerate(expected):
            assert text[offsets[n] : offsets[n + 1]] == rle["counts"], (mode, n)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("n + ends[i] - counts[i]", "n + ends[i]"), ("text_ends[k] - lengths[k]", "text_ends[k]")],
    ids=["places of the next column", "text one run too far"],
)
def test_planted_faults_are_caught(hostcuda, right, wrong):
    driver = hostcuda("encode_masks", "memory", {**FEW, right: wrong})
    masks, boxes = scene()
    with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        driver.run(*arguments(masks, boxes, "detectron2"))
