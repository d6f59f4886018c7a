import pytest
import torch

from dynamask.reference.edge_targets import block_targets, edge_targets

from .conftest import SANITIZERS, SanitizerError, split

FEW = {"kEdgeThreads = 256": "kEdgeThreads = 64"}


def blobs():
    """Smooth random masks of several sizes, one of them not square, some reaching the border."""
    sizes = ((2, 14, 14), (1, 1, 9), (2, 23, 28))
    smooth = [torch.nn.functional.avg_pool2d(torch.randn(s), 5, 1, 2) for s in sizes]
    return [(x > 0).float() for x in smooth]


def arguments(width, masks):
    return (width, len(masks), *(x for m in masks for x in (*m.shape[1:], m)))


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_matches_reference(hostcuda, sanitizer):
    driver = hostcuda("edge_targets", sanitizer, FEW)
    masks = blobs()
    masks[0][0, 0, 0] = -0.0
    for width in (-1, 0, 1, 2, 3):
        expected = block_targets(masks, width) if width > 0 else edge_targets(masks, width < 0)
        for got, wanted in zip(split(driver.run(*arguments(width, masks)), expected), expected):
            assert torch.equal(got, wanted), width


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("y < height &&", "y <= height &&"), ("if (i >= a.end[a.sizes - 1]) return;", "")],
    ids=["row past the last", "no guard"],
)
def test_planted_faults_are_caught(hostcuda, right, wrong):
    driver = hostcuda("edge_targets", "memory", {**FEW, right: wrong})
    with pytest.raises(SanitizerError, match=r"overflow|out of bounds"):
        driver.run(*arguments(0, blobs()))
