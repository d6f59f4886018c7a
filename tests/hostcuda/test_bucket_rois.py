import pytest
import torch

from dynamask.reference.bucket_rois import bucket_rois as reference

from .conftest import SANITIZERS, SanitizerError, split


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_matches_reference(hostcuda, sanitizer):
    driver = hostcuda("bucket_rois", sanitizer)
    for n in (0, 1, 97, 512):
        state = torch.randint(0, 4, (n,))
        expected = list(reference(state, 4))
        for got, wanted in zip(split(driver.run(state, 4), expected), expected):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("sanitizer", "right", "wrong", "report"),
    [
        ("threads", "__syncthreads();", "", "data race"),
        ("memory", "i < end; ++i) {", "i <= end; ++i) {", "heap-buffer-overflow"),
        ("memory", "start[kMaxStates + 2]", "start[1]", "out of bounds"),
    ],
    ids=["missing barrier", "off by one", "too small shared array"],
)
def test_planted_faults_are_caught(hostcuda, sanitizer, right, wrong, report):
    driver = hostcuda("bucket_rois", sanitizer, {right: wrong})
    with pytest.raises(SanitizerError, match=report):
        driver.run(torch.randint(0, 4, (300,)), 4)
