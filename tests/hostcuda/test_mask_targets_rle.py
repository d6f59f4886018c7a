import pytest
import torch

from dynamask import rle
from dynamask.ops import mask_targets

from .conftest import SANITIZERS, SanitizerError
from .test_mask_targets import (
    BOXES,
    FEW,
    INDEX,
    NO_ROOM,
    WIDE_BOXES,
    as_targets,
    bitmaps,
    given,
    wide_bitmaps,
)


def run_lengths():
    """Blobs, noise (many short runs, some of two bytes and more) and one without foreground."""
    noise = torch.rand(48, 300) > 0.5
    noise[:, 30:200] = False
    return [rle.encode(mask) for mask in (bitmaps()[0], noise, torch.zeros(9, 7, dtype=torch.bool))]


def arguments(masks, boxes=BOXES):
    text = torch.frombuffer(bytearray(b"".join(x["counts"] for x in masks)), dtype=torch.uint8)
    starts = torch.tensor([0, *(len(x["counts"]) for x in masks)]).cumsum(0)
    sizes = torch.tensor([x["size"] for x in masks])
    return *given(boxes, len(masks)), text, starts, sizes


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_matches_the_cpu(hostcuda, sanitizer):
    driver = hostcuda("mask_targets_rle", sanitizer, FEW)
    masks = run_lengths()
    sizes = (5, 14)
    expected = mask_targets(masks, BOXES, INDEX, sizes)
    assert expected[1][0].any()
    assert expected[1][1].any()
    for got, wanted in zip(as_targets(driver.run(*arguments(masks))), expected):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("fits", [True, False])
def test_bins_of_many_pixels(hostcuda, fits):
    driver = hostcuda("mask_targets_rle", "memory", FEW if fits else {**FEW, **NO_ROOM})
    masks = [rle.encode(mask.T.contiguous()) for mask in wide_bitmaps()]
    boxes = WIDE_BOXES[:, [1, 0, 3, 2]]
    expected = mask_targets(masks, boxes, INDEX, (5, 14))
    assert 0 < expected[1].float().mean() < 1
    for got, wanted in zip(as_targets(driver.run(*arguments(masks, boxes))), expected):
        assert torch.equal(got, wanted)


def test_strings_that_are_wrong_lead_nowhere(hostcuda):
    """Python refuses them; the kernel only must not read or write elsewhere."""
    driver = hostcuda("mask_targets_rle", "memory", FEW)
    for text in (b"oooooooooooo", b"O" * 40, b"o" * 64, bytes(range(256)), b"0" * 33, b""):
        masks = [{"size": size, "counts": text} for size in ([32, 40], [-3, 9], [2**40, 2**40])]
        if text:
            driver.run(*arguments(masks))
    boxes, index, sizes, _, text, starts, image_sizes = arguments(run_lengths())
    for wrong in (starts - 50, starts + 9999, starts.flip(0)):
        driver.run(boxes, index, sizes, 3, text, wrong, image_sizes)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("[begin + index]", "[begin + index + 1]"), ("begin > first && last", "last")],
    ids=["writes past the runs", "reads before the text"],
)
def test_planted_faults_are_caught(hostcuda, right, wrong):
    driver = hostcuda("mask_targets_rle", "memory", {**FEW, right: wrong})
    runs_of_one = {"size": [3, 3], "counts": b"111000000"}
    with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        driver.run(*arguments([runs_of_one] * 3))
