import pytest
import torch

from dynamask.ops import mask_targets

from .conftest import SANITIZERS, SanitizerError, split

FEW = {
    "kTargetThreads = 128": "kTargetThreads = 32",
    "kBlocksPerTarget = 8": "kBlocksPerTarget = 2",
}
NO_ROOM = {"kMostTaps = 2048": "kMostTaps = 8"}  # in shared memory
SIZES = (5, 14)
NAN = float("nan")
BOXES = torch.tensor(
    [
        [3.0, 4.0, 20.5, 30.25],
        [-6.0, -5.5, 12.3, 9.1],
        [30.4, 20.2, 60.0, 50.0],
        [0.0, 0.0, 40.0, 32.0],
        [7.25, 8.5, 7.75, 9.0],
        [9.0, 9.0, 5.0, 5.0],
        [NAN, 0.0, 9.0, 9.0],
        [-200.0, -200.0, -100.0, -100.0],
    ]
)
WIDE_BOXES = BOXES * torch.tensor([7.5, 0.6, 7.5, 0.6])
INDEX = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def given(boxes, instances):
    return boxes, INDEX, torch.tensor(SIZES), instances


def as_targets(data, sizes=SIZES):
    like = [torch.zeros(len(BOXES), s, s, dtype=torch.uint8) for s in sizes]
    return split(data, like)


def bitmaps():
    smooth = torch.nn.functional.avg_pool2d(torch.randn(3, 32, 40), 5, 1, 2)
    return (smooth > 0).to(torch.uint8)


def wide_bitmaps():
    smooth = torch.nn.functional.avg_pool2d(torch.randn(3, 20, 300), 9, 1, 4)
    return (smooth > 0).to(torch.uint8)


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_matches_the_cpu(hostcuda, sanitizer):
    driver = hostcuda("mask_targets", sanitizer, FEW)
    masks = bitmaps()
    data = driver.run(*given(BOXES, 3), masks, 32, 40)
    for got, wanted in zip(as_targets(data), mask_targets(masks, BOXES, INDEX, SIZES)):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("fits", [True, False])
def test_bins_of_many_pixels(hostcuda, fits):
    """Rows of more words than are loaded at once, and bins of more pixels than a word."""
    driver = hostcuda("mask_targets", "memory", FEW if fits else {**FEW, **NO_ROOM})
    masks = wide_bitmaps()
    data = driver.run(*given(WIDE_BOXES, 3), masks, 20, 300)
    expected = mask_targets(masks, WIDE_BOXES, INDEX, SIZES)
    assert 0 < expected[1].float().mean() < 1
    for got, wanted in zip(as_targets(data), expected):
        assert torch.equal(got, wanted)


def test_a_target_of_an_instance_that_does_not_exist_is_zero(hostcuda):
    driver = hostcuda("mask_targets", "memory", FEW)
    masks = bitmaps()[:2]
    for targets in as_targets(driver.run(*given(BOXES, 2), masks, 32, 40)):
        assert not targets[INDEX == 2].any()
        assert targets[0].any()


def test_a_missing_barrier_is_caught(hostcuda):
    fault = {"__syncthreads();\n  const AxisTaps": "const AxisTaps"}
    driver = hostcuda("mask_targets", "threads", {**FEW, **fault})
    with pytest.raises(SanitizerError, match="data race"):
        driver.run(*given(BOXES, 3), bitmaps(), 32, 40)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("out[k] + r * size[k]", "out[k] + (r + 1) * size[k]"),
        ("words + g * height", "words + (g + 1) * height"),
        ("column < width &&", "column <= width &&"),
    ],
    ids=["writes past the targets", "reads past the words", "reads past the bitmaps"],
)
def test_planted_faults_are_caught(hostcuda, right, wrong):
    driver = hostcuda("mask_targets", "memory", {**FEW, right: wrong})
    with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        driver.run(*given(BOXES, 3), bitmaps(), 32, 40)
