"""roi_align and multiscale_roi_align, which share their kernels."""

import pytest
import torch

from dynamask.reference.multiscale_roi_align import multiscale_roi_align as reference
from dynamask.testing import assert_as_accurate

from .conftest import SANITIZERS, SanitizerError, split

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SCALES = [1 / 4, 1 / 8, 1 / 16]
FEW = {
    "kPoolThreads = 256": "kPoolThreads = 32",
    "kTile = 8": "kTile = 4",
    "kGatherThreads = 256": "kGatherThreads = 32",
}
NAN, INF = float("nan"), float("inf")
BOXES = torch.tensor(
    [
        [0, 3.0, 4.0, 60.0, 50.0],
        [1, -20.0, -9.0, 30.0, 200.0],
        [1, 10.0, 10.0, 11.0, 11.0],
        [0, 0.0, 0.0, 500.0, 400.0],
        [2, 5.0, 5.0, 20.0, 20.0],
        [-1, 5.0, 5.0, 20.0, 20.0],
        [0, NAN, 5.0, 20.0, 20.0],
        [0, 5.0, 5.0, INF, 20.0],
        [0, 40.0, 40.0, 20.0, 20.0],
        [1, 30.0, 2.0, 44.0, 40.0],
    ]
)


def pyramid(channels, dtype, levels):
    return [torch.randn(2, channels, 24 >> k, 32 >> k).to(dtype) for k in range(levels)]


def numbers(x, rows):
    """A tensor as the driver reads it: 16 bits as integers, channels innermost for rows."""
    x = x.permute(0, 2, 3, 1) if rows and x.dim() == 4 else x
    return x.contiguous().view(torch.int16) if x.element_size() == 2 else x.contiguous()


def arguments(maps, boxes, bins, sampling_ratio, aligned, rule, rows, backward=0, deterministic=0):
    dtype = maps[0].dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    sizes = torch.tensor([size for x in maps for size in x.shape[2:]])
    return (
        *(DTYPES.index(dtype), int(rows), backward, deterministic),
        *(boxes.to(wide), torch.tensor(SCALES[: len(maps)], dtype=wide), sizes),
        *(*maps[0].shape[:2], torch.tensor(bins), sampling_ratio),
        *(int(aligned), int(rule == "detectron2")),
    )


def pool(driver, maps, boxes, sizes, *options, rows):
    """The pooled features of every size, from one launch."""
    n, c, dtype = len(boxes), maps[0].shape[1], maps[0].dtype
    given = arguments(maps, boxes, sizes, *options, rows)
    shapes = [(n, h, w, c) if rows else (n, c, h, w) for h, w in sizes]
    like = [numbers(torch.zeros(shape, dtype=dtype), False) for shape in shapes]
    outs = [
        x.view(dtype) for x in split(driver.run(*given, *(numbers(x, rows) for x in maps)), like)
    ]
    return [x.permute(0, 3, 1, 2) if rows else x for x in outs]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_reference(hostcuda, dtype):
    driver = hostcuda("roi_align", "memory", FEW)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for levels, channels, rows, sampling_ratio, aligned, rule in (
        (3, 16, True, -1, True, "detectron2"),
        (3, 3, True, 2, False, "torchvision"),
        (1, 3, False, -1, False, "torchvision"),
    ):
        maps, sizes = pyramid(channels, dtype, levels), [(3, 2), (5, 5)]
        options = (sampling_ratio, aligned)
        level = {"level_rule": rule}
        scales = SCALES[:levels]
        got = pool(driver, maps, BOXES, sizes, *options, rule, rows=rows)
        for size, pooled in zip(sizes, got):
            exact = reference([x.double() for x in maps], BOXES, size, scales, *options, **level)
            plain = reference(maps, BOXES.to(wide), size, scales, *options, **level)
            assert_as_accurate(pooled, exact, plain)


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_gradient(hostcuda, sanitizer):
    driver = hostcuda("roi_align", sanitizer, FEW)
    for channels, rows, sampling_ratio in ((4, True, -1), (3, False, 2)):
        options = (sampling_ratio, True)
        maps = [x.requires_grad_() for x in pyramid(channels, torch.float32, 3)]
        bins = (3, 2)
        pooled = reference(maps, BOXES, bins, SCALES, *options, level_rule="detectron2")
        grad = torch.randn_like(pooled)
        expected = torch.autograd.grad(pooled, maps, grad)
        like = [x.permute(0, 2, 3, 1) if rows else x for x in expected]
        sums = []
        for deterministic in (0, 1, 1):
            given = arguments(maps, BOXES, bins, *options, "detectron2", rows, 1, deterministic)
            data = driver.run(*given, numbers(grad, rows))
            sums.append(split(data, [torch.zeros(x.shape) for x in like]))
            for got, wanted in zip(sums[-1], like):
                torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        for one, other in zip(*sums[1:]):
            assert torch.equal(one, other)


def test_a_lost_atomic_is_caught(hostcuda):
    lost = {"atomicAdd(place + c, part.value[c])": "place[c] += part.value[c]"}
    driver = hostcuda("roi_align", "threads", {**FEW, **lost})
    maps = pyramid(3, torch.float32, 3)
    given = arguments(maps, BOXES, (3, 2), -1, True, "detectron2", True, 1)
    with pytest.raises(SanitizerError, match="data race"):
        driver.run(*given, torch.randn(len(BOXES), 3, 2, 3))


def test_packs_that_do_not_fit_are_caught(hostcuda):
    driver = hostcuda("roi_align", "memory", {**FEW, "channels % kCount == 0 && ": ""})
    maps = pyramid(6, torch.float32, 3)
    given = arguments(maps, BOXES, (3, 2), -1, True, "detectron2", True, 1)
    with pytest.raises(SanitizerError, match="misaligned address"):
        driver.run(*given, torch.randn(len(BOXES), 3, 2, 6))


@pytest.mark.parametrize(
    ("sanitizer", "right", "wrong", "report"),
    [
        (
            "threads",
            "    __syncthreads();\n    for (int j = 0; exists",
            "    for (int j = 0; exists",
            "data race",
        ),
        ("memory", "x < width && channel", "x <= width && channel", "heap-buffer-overflow"),
    ],
    ids=["missing barrier", "off by one"],
)
def test_faults_of_the_gathering_form_are_caught(hostcuda, sanitizer, right, wrong, report):
    driver = hostcuda("roi_align", sanitizer, {**FEW, right: wrong})
    maps = [torch.randn(2, 4, 23 >> k, 31 >> k) for k in range(3)]  # tiles that reach beyond them
    given = arguments(maps, BOXES, (3, 2), -1, True, "detectron2", True, 1, 1)
    with pytest.raises(SanitizerError, match=report):
        driver.run(*given, torch.randn(len(BOXES), 3, 2, 4))


def test_a_read_outside_is_caught(hostcuda):
    fault = {"if (image < 0) return;": "if (image < 0) image = 2;"}
    driver = hostcuda("roi_align", "memory", {**FEW, **fault})
    maps = pyramid(4, torch.float32, 3)
    with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        pool(driver, maps, BOXES, [(3, 2)], -1, True, "detectron2", rows=True)
