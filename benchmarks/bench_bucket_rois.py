import pytest
import torch

from dynamask.benchmarks.harness import Case
from dynamask.ops import bucket_rois
from dynamask.reference.bucket_rois import bucket_rois as reference


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


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_bucket_rois(case, report):
    report(case)
