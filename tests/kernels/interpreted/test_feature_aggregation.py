import pytest
import torch

from dynamask.reference.feature_aggregation import feature_aggregation as reference
from dynamask.testing import assert_as_accurate

triton = pytest.importorskip("triton")
kernels = pytest.importorskip("dynamask.kernels.feature_aggregation")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CASES = {
    # N, C, C', height, width of the RoI features, groups
    "one group": (11, 24, 16, 2, 2, 1),
    "two groups": (1, 16, 32, 3, 5, 2),
    "odd channels": (2, 41, 24, 2, 3, 1),
    "odd groups": (1, 6, 27, 1, 3, 3),
    "many offsets": (1, 4, 8, 1, 1, 8),
    "one channel": (2, 1, 1, 1, 1, 1),
    "no RoI": (0, 16, 8, 3, 3, 1),
}


def guarded(t):
    """The same numbers between others that are none: what reads those shows it."""
    room = torch.full((t.numel() + 512,), torch.nan, dtype=t.dtype)
    inside = room[256:-256].copy_(t.flatten())
    return inside.view(t.shape)


def some_boxes(n):
    """On the level, half off it, far off it, turned round, of no numbers, of no image, of points
    where the level just ends."""
    boxes = torch.rand(n, 5) * 60
    boxes[:, 3:] += 40
    boxes[:, 0] = torch.arange(n) % 2
    strange = torch.tensor(
        [
            [0.0, -30, -30, 20, 30],
            [1, 900, 900, 990, 999],
            [1, 90, 90, 10, 10],
            [1, 5, torch.nan, 60, 70],
            [2, 5, 5, 60, 60],
            [-1, 5, 5, 60, 60],
            [torch.nan, 5, 5, 60, 60],
            [0, 5, 5, torch.inf, 60],
            [1, 108, 76, 108, 76],
            [0, -4, -4, -4, -4],
        ]
    )
    boxes[1:11] = strange[: max(n - 1, 0)]
    return boxes


def inputs(case, dtype):
    n, c, out, height, width, groups = CASES.get(case, case)

    def normal(*shape):
        fan = shape[1] * shape[2] * shape[3] if len(shape) == 4 else 4
        return torch.randn(shape) / fan**0.5

    x, level = torch.randn(n, c, height, width), torch.randn(2, out, 9, 13)
    weights = [
        *(normal(out, c, 1, 1), normal(out), normal(out, out, 1, 1), normal(out)),
        *(normal(18 * groups, 2 * out, 3, 3), normal(18 * groups) * 2, normal(out, out, 3, 3)),
        *(normal(18 * groups, out, 1, 1), normal(18 * groups) * 2, normal(out, out, 3, 3)),
    ]
    x, level, *weights = (guarded(t.to(dtype)) for t in (x, level, *weights))
    return x, level, guarded(some_boxes(n)), 1 / 8, weights


def run(x, level, rois, scale, weights, count=None):
    return kernels.feature_aggregation(x, level, rois, scale, count, *weights)


def exactly(x, level, rois, scale, weights):
    double = [t.double() for t in (x, level, rois, *weights)]
    return reference(*double[:3], scale, double[3:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_matches_reference(case, dtype):
    args = inputs(case, dtype)
    got = run(*args)
    assert got.is_contiguous()
    assert_as_accurate(got, exactly(*args), reference(*args))


@pytest.mark.parametrize(("dtype", "channels"), [(torch.float32, 68), (torch.bfloat16, 132)])
def test_channels_in_several_blocks(dtype, channels):
    args = inputs((1, 8, channels, 1, 1, 1), dtype)
    assert_as_accurate(run(*args), exactly(*args), reference(*args))


@pytest.mark.parametrize("case", ["two groups", "odd channels"])
def test_channels_last(case):
    x, level, *others = inputs(case, torch.float32)
    rows = [t.contiguous(memory_format=torch.channels_last) for t in (x, level)]
    got = run(*rows, *others)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, run(x, level, *others), rtol=0, atol=0)


@pytest.mark.parametrize("level_size", [(0, 5), (1, 1), (1, 7)])
def test_small_levels(level_size):
    x, level, *others = inputs("odd channels", torch.float32)
    args = x, torch.randn(*level.shape[:2], *level_size), *others
    assert_as_accurate(run(*args), exactly(*args), reference(*args))


@pytest.mark.parametrize("count", [-1, 0, 4, 12])
def test_computes_the_first_of_them(count):
    x, *others = args = inputs("one group", torch.float32)
    whole = run(*args)
    existing = min(max(count, 0), len(x))
    x[existing:] = torch.nan
    got = run(x, *others, count=torch.tensor([count]))
    assert torch.equal(got[:existing], whole[:existing])
    assert got[existing:].isnan().all()


def test_any_strides_and_dtypes():
    x, level, rois, scale, weights = inputs("odd channels", torch.float32)
    strided = x.repeat_interleave(2, 3)[..., ::2], level.mT.contiguous().mT, rois.T.clone().T
    turned = [w.transpose(0, -1).contiguous().transpose(0, -1) for w in weights]
    expected = run(x, level, rois, scale, weights)
    torch.testing.assert_close(run(*strided, scale, turned), expected)
    got = run(x, level.half(), rois, scale, [w.bfloat16() for w in weights])
    wanted = run(x, level.half().float(), rois, scale, [w.bfloat16().float() for w in weights])
    torch.testing.assert_close(got, wanted)


def test_tf32_may_be_allowed():
    assert kernels.precision()["PRECISION"] == "ieee"
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert kernels.precision()["PRECISION"] == "tf32"
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
