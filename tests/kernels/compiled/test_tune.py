import pytest

pytest.importorskip("triton")

from dynamask.benchmarks import tune


def test_a_candidate_that_does_not_fit_says_so(absent_gpu):
    row = tune.attempt("deform_conv2d 256@14 G=1", {"num_stages": 20})
    assert row["sizes"]["num_stages"] == 20
    assert "shared memory" in row["why_not"]
    tune.prepared.cache_clear()
