import pytest
import torch

from dynamask.reference.nms import batched_nms_fixed

from .conftest import SANITIZERS, SanitizerError, split


def crowd(n, dtype=torch.float32):
    """Boxes of which many overlap, some of them twice, some NaN or infinite; scores with ties."""
    boxes = torch.rand(n, 4) * 60
    boxes[:, 2:] += boxes[:, :2] + 1
    boxes[1::9, 2] = float("nan")
    boxes[4::9, 2] = float("inf")
    boxes[::7] = boxes[: len(boxes[::7])].clone()
    scores = (torch.rand(n) * 50).round() - 25
    scores[2::11] = float("nan")
    return boxes.to(dtype), scores.to(dtype), torch.randint(0, 3, (n,))


FEW_THREADS = {"kSweepThreads = 512": "kSweepThreads = 64"}  # each is one of the system here


def run(driver, boxes, scores, groups, threshold, max_out):
    size = boxes.element_size()
    threshold = torch.tensor([threshold], dtype=torch.float64)
    like = [torch.zeros(max_out, dtype=torch.int64), torch.zeros(max_out, dtype=torch.bool)]
    return split(driver.run(size, boxes, scores, groups, threshold, max_out), like)


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_matches_reference(hostcuda, sanitizer):
    driver = hostcuda("nms", sanitizer, FEW_THREADS)
    for n, dtype, threshold, max_out in (
        (0, torch.float32, 0.5, 3),
        (1, torch.float32, 0.5, 1),
        (64, torch.float64, 0.3, 64),
        (200, torch.float32, 0.0, 200),
        (200, torch.float32, 0.5, 20),
    ):
        given = (*crowd(n, dtype), threshold, max_out)
        for got, expected in zip(run(driver, *given), batched_nms_fixed(*given)):
            assert torch.equal(got, expected)


def test_more_boxes_than_a_stripe(hostcuda):
    driver = hostcuda("nms", "memory", {**FEW_THREADS, "64 * kWord": "2 * kWord"})
    given = (*crowd(300), 0.5, 300)
    for got, expected in zip(run(driver, *given), batched_nms_fixed(*given)):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("sanitizer", "right", "wrong", "report"),
    [
        ("threads", "__syncthreads();", "", "data race"),
        ("threads", "__syncthreads();\n    const int n", "const int n", "data race"),
        ("memory", "if (i >= count) return;", "", "heap-buffer-overflow"),
        ("memory", "w < a.words(); w +=", "w <= a.words(); w +=", "heap-buffer-overflow"),
    ],
    ids=["no barrier after loading", "no barrier after choosing", "no guard", "off by one"],
)
def test_planted_faults_are_caught(hostcuda, sanitizer, right, wrong, report):
    driver = hostcuda("nms", sanitizer, {**FEW_THREADS, right: wrong})
    with pytest.raises(SanitizerError, match=report):
        run(driver, *crowd(200), 0.5, 200)
