import pytest
import torch

from dynamask.ops import Polygons, mask_targets

from .conftest import SANITIZERS, SanitizerError
from .test_mask_targets import BOXES, FEW, INDEX, as_targets

SIZES = (5, 14, 70)


def outlines():
    """A star, two rings that overlap, and one whose vertices are far outside."""
    turn = torch.linspace(0, 6.28, 23)
    star = torch.stack([turn.cos(), turn.sin()], 1) * torch.tensor([14.0, 4.0] * 12)[:23, None] + 15
    square = [8.0, 8.0, 30.0, 8.0, 30.0, 25.0, 8.0, 25.0]
    other = [20.0, 2.0, 38.0, 16.0, 20.0, 30.0]
    wide = [-1e6, -3.0, 1e5, 12.0, 3.5, 4e4]
    return Polygons.of([[star.flatten().tolist()], [square, other], [wide]])


def arguments(polygons):
    sizes = torch.tensor(SIZES)
    return BOXES.double(), INDEX, sizes, len(polygons.instances) - 1, *polygons


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_matches_the_cpu(hostcuda, sanitizer):
    driver = hostcuda("mask_targets_polygons", sanitizer, FEW)
    polygons = outlines()
    expected = mask_targets(polygons, BOXES, INDEX, SIZES)
    for got, wanted in zip(as_targets(driver.run(*arguments(polygons)), SIZES), expected):
        assert torch.equal(got, wanted)


def test_an_outline_that_is_not_finite_gives_zeros(hostcuda):
    driver = hostcuda("mask_targets_polygons", "memory", FEW)
    polygons = outlines()
    polygons.vertices[3] = float("inf")
    expected = mask_targets(polygons, BOXES, INDEX, SIZES)
    for got, wanted in zip(as_targets(driver.run(*arguments(polygons)), SIZES), expected):
        assert not got[INDEX == 0].any()
        assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("sanitizer", "right", "wrong", "report"),
    [
        ("threads", "atomicXor(&turns[row],", "turns[row] ^= (", "data race"),
        ("threads", "__syncthreads();\n      if (t < 32)", "if (t < 32)", "data race"),
        ("memory", "outlines.vertex(ring + 1) - first", "outlines.num_vertices", "overflow"),
    ],
    ids=["lost atomic", "missing barrier", "ring too long"],
)
def test_planted_faults_are_caught(hostcuda, sanitizer, right, wrong, report):
    two_warps = {"kTargetThreads = 128": "kTargetThreads = 64"}  # one may run ahead of the other
    driver = hostcuda("mask_targets_polygons", sanitizer, {**two_warps, right: wrong})
    with pytest.raises(SanitizerError, match=report):
        driver.run(*arguments(outlines()))
