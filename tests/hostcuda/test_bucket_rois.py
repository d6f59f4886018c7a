import pytest
import torch

from dynamask.reference.bucket_rois import bucket_rois as reference

from .conftest import SANITIZERS, SanitizerError, split

SIZES = (14, 28, 56, 112)


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_matches_reference(hostcuda, sanitizer):
    driver = hostcuda("bucket_rois", sanitizer)
    for n in (0, 1, 97, 512):
        state = torch.randint(0, 4, (n,))
        expected = list(reference(state, 4, SIZES))
        given = (state, 4, torch.tensor(SIZES))
        for got, wanted in zip(split(driver.run(*given), expected), expected):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("sanitizer", "right", "wrong", "report"),
    [
        ("threads", "__syncthreads();", "", "data race"),
        ("memory", "i < end; ++i) {", "i <= end; ++i) {", "heap-buffer-overflow"),
        ("memory", "start[kMaxStates + 2]", "start[1]", "out of bounds"),
        ("memory", "first[b][t] = 0;", "continue;", "overflow|SEGV"),
        ("memory", "__shfl_up_sync(~0u", "__shfl_up_sync(0xffffu", "mask without"),
    ],
    ids=[
        *("missing barrier", "off by one", "too small shared array"),
        *("counts that do not start as zeros", "half a mask"),
    ],
)
def test_planted_faults_are_caught(hostcuda, sanitizer, right, wrong, report):
    driver = hostcuda("bucket_rois", sanitizer, {right: wrong})
    with pytest.raises(SanitizerError, match=report):
        driver.run(torch.randint(0, 4, (300,)), 4, torch.tensor(SIZES))


def test_states_out_of_range_come_last_and_have_no_mask(hostcuda):
    driver = hostcuda("bucket_rois", "memory")
    state = torch.tensor([1, -1, 3, 4, 0])
    like = [torch.zeros(size, dtype=torch.int64) for size in (5, 5, 4, 5, 5, 6)]
    order, _, counts, offsets, sizes, starts = split(
        driver.run(state, 4, torch.tensor(SIZES)), like
    )
    assert order.tolist() == [2, 0, 4, 1, 3]
    assert (counts.tolist(), offsets.tolist()) == ([1, 1, 0, 1], [0, 1, 1, 2, 3])
    assert sizes.tolist() == [28, 0, 112, 0, 14]
    assert starts.tolist() == [0, 784, 784, 13328, 13328, 13524]
