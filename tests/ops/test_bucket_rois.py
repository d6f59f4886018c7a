import pytest
import torch

from dynamask.ops import bucket_rois
from dynamask.reference.bucket_rois import bucket_rois as reference
from dynamask.testing import assert_op_is_registered


def test_by_hand():
    buckets = bucket_rois(torch.tensor([0, 3, 1, 3, 0]), num_states=4, sizes=[1, 2, 3, 5])
    assert buckets.order.tolist() == [1, 3, 2, 0, 4]
    assert buckets.inverse.tolist() == [3, 0, 2, 1, 4]
    assert buckets.counts.tolist() == [2, 1, 0, 2]
    assert buckets.offsets.tolist() == [0, 2, 2, 3, 5]
    assert buckets.mask_sizes.tolist() == [1, 5, 2, 5, 1]
    assert buckets.mask_offsets.tolist() == [0, 1, 26, 30, 55, 56]


def test_stage_s_works_on_a_prefix():
    state = torch.randint(0, 4, (101,))
    order, _, _, offsets, *_ = bucket_rois(state, 4)
    for stage in range(4):
        prefix = order[: offsets[4 - stage]]
        assert set(prefix.tolist()) == set((state >= stage).nonzero().flatten().tolist())


@pytest.mark.parametrize("n", [0, 1, 97, 512])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_matches_reference(n, dtype):
    state = torch.randint(0, 5, (n,), dtype=dtype)
    for sizes in ((), (7, 14, 28, 56, 112)):
        for got, expected in zip(bucket_rois(state, 5, sizes), reference(state, 5, sizes)):
            assert torch.equal(got, expected)


def test_registration():
    state = torch.randint(0, 4, (9,))
    for sizes in ([], [14, 28, 56, 112]):
        assert_op_is_registered(torch.ops.dynamask.bucket_rois.default, (state, 4, sizes))


def test_compiles_without_a_graph_break():
    compiled = torch.compile(bucket_rois, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 8):
        state = torch.randint(0, 4, (n,))
        for got, expected in zip(compiled(state, 4), bucket_rois(state, 4)):
            assert torch.equal(got, expected)


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("state", "num_states", "error", "message"),
    [
        (torch.zeros(2, 2, dtype=torch.long), 4, ValueError, r"expected state \[N\], got \[2, 2\]"),
        (torch.zeros(2), 4, TypeError, "expected state of an integer dtype, got torch.float32"),
        (torch.tensor([0, 4]), 4, ValueError, r"expected state in \[0, 4\), got 4 in row 1"),
        (torch.tensor([-1]), 4, ValueError, r"expected state in \[0, 4\), got -1 in row 0"),
        (torch.tensor([0]), 0, ValueError, "expected num_states >= 1, got 0"),
    ],
)
def test_says_what_is_wrong(state, num_states, error, message):
    with pytest.raises(error, match=f"bucket_rois: {message}"):
        bucket_rois(state, num_states)


def test_one_size_for_each_state():
    with pytest.raises(ValueError, match="bucket_rois: expected sizes 4, got 2"):
        bucket_rois(torch.tensor([0]), 4, [14, 28])
