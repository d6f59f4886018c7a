import pytest
import torch

from dynamask.benchmarks.harness import Case, on_gpu
from dynamask.ops import bucket_rois
from dynamask.reference.bucket_rois import bucket_rois as reference


def waiting_prefixes(state):
    """The RoIs of each stage as slices, for which the host must know how many there are."""
    order = torch.argsort(state, descending=True, stable=True)
    counts = state.bincount(minlength=4).tolist()
    return [order[: sum(counts[stage:])] for stage in range(4)]


def prefixes(state):
    """The RoIs of every stage are the first so many of the order, a number on the device."""
    order, _, _, offsets, *_ = bucket_rois(state, 4)
    return order, offsets.unbind()[:0:-1]


def check_prefixes(state):
    order, ends = prefixes(state)
    for end, expected in zip(ends, waiting_prefixes(state), strict=True):
        assert torch.equal(order[: int(end)], expected)


def cases():
    for n in (100, 512):
        torch.manual_seed(0)
        state = torch.randint(0, 4, (n,))

        def check(state=state):
            for got, expected in zip(bucket_rois(state, 4), reference(state, 4)):
                assert torch.equal(got, expected)

        yield Case(
            op="bucket_rois",
            case=f"N={n}, 4 states",
            ours=lambda state=state: bucket_rois(state, 4),
            baseline=lambda state=state: reference(state, 4),
            baseline_name="torch sort and bincount",
            check=check,
            dtype="int64",
        )
        if on_gpu():
            yield Case(
                op="bucket_rois",
                case=f"dispatch N={n}, 4 stages",
                ours=lambda state=state: prefixes(state),
                baseline=lambda state=state: waiting_prefixes(state),
                baseline_name="torch sort, bincount().tolist()",
                check=lambda state=state: check_prefixes(state),
                dtype="int64",
            )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_bucket_rois(case, report):
    report(case)
