import importlib

import pytest
import torch

from dynamask.ops import FeatureAggregationWeights, feature_aggregation
from dynamask.reference.feature_aggregation import feature_aggregation as reference
from dynamask.testing import assert_as_accurate, assert_op_is_registered

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
CASES = {
    # N, C, height, width of the RoI features, groups
    "one group": (7, 64, 7, 7, 1),
    "two groups": (2, 128, 7, 7, 2),
    "four groups": (1, 256, 14, 14, 4),
    "odd groups": (2, 72, 7, 7, 3),
    "few channels": (3, 8, 14, 14, 1),
    "one channel": (1, 2, 3, 3, 1),
    "many channels": (1, 640, 2, 2, 2),
    "a channel more": (1, 66, 5, 3, 1),
    "wide": (2, 16, 1, 29, 2),
    "one pixel": (2, 16, 1, 1, 1),
    "several tiles": (1, 64, 28, 28, 1),
    "a row a tile": (1, 16, 56, 56, 1),
    "no RoI": (0, 16, 7, 7, 1),
}
SCALE = 1 / 8


def some_rois(count):
    """Boxes on the level, half off it, far off it, turned round, and of no numbers."""
    corner = torch.rand(count, 2) * 120
    rois = torch.cat([torch.arange(count)[:, None] % 2, corner, corner + 60], 1)
    strange = torch.tensor(
        [[-30.0, -30, 20, 30], [900, 900, 990, 999], [90, 90, 10, 10], [5, torch.nan, 60, 70]]
    )
    for row, box in zip(range(1, count), strange):
        rois[row, 1:] = box
    return rois


def some_weights(channels, out, groups, dtype):
    def normal(*shape):
        fan = max(1, shape[1] * shape[2] * shape[3]) if len(shape) == 4 else 4
        return torch.randn(shape, dtype=dtype) / fan**0.5

    return FeatureAggregationWeights(
        normal(out, channels, 1, 1),
        normal(out),
        normal(out, out, 1, 1),
        normal(out),
        normal(18 * groups, 2 * out, 3, 3),
        normal(18 * groups) * 2,
        normal(out, out, 3, 3),
        normal(18 * groups, out, 1, 1),
        normal(18 * groups) * 2,
        normal(out, out, 3, 3),
    )


def inputs(case, dtype=torch.float64):
    n, c, height, width, groups = CASES[case]
    x = torch.randn(n, c, height, width, dtype=dtype)
    level = torch.randn(2, c // 2, 19, 23, dtype=dtype)
    return x, level, some_rois(n), SCALE, some_weights(c, c // 2, groups, dtype)


def to(dtype, args):
    x, level, rois, scale, weights = args
    rois = rois.double() if dtype == torch.float64 else rois
    return (
        x.to(dtype),
        level.to(dtype),
        rois,
        scale,
        FeatureAggregationWeights(*(w.to(dtype) for w in weights)),
    )


def leaves_of(args):
    x, level, rois, scale, weights = args
    leaves = [t.detach().requires_grad_() for t in (x, level, *weights)]
    return leaves, (*leaves[:2], rois, scale, FeatureAggregationWeights(*leaves[2:]))


def test_by_hand():
    """One channel, one pixel: every step can be followed on paper."""
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1)
    x = torch.tensor([[[[3.0]]]])
    level = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    centre = torch.zeros(1, 1, 3, 3)
    centre[0, 0, 1, 1] = 1
    offset1 = torch.zeros(18)
    offset1[9] = -0.5  # the centre's dx: half of the left neighbour
    offset2 = torch.zeros(18)
    offset2[8] = 1  # the centre's dy: the row below
    weights = FeatureAggregationWeights(
        2 * one, zero - 1, one, zero + 10, torch.zeros(18, 2, 3, 3), offset1, centre,
        torch.zeros(18, 1, 1, 1), offset2, 2 * centre,
    )  # fmt: skip
    rois = torch.tensor([[0.0, 0, 0, 2, 2]])
    # x = 5 everywhere, p = level + 10; a = 2.5 on the left, where half of it is padding, else 5;
    # y = twice the row below, which is padding for the second row
    out = feature_aggregation(x, level, rois, 1.0, weights)
    assert out.tolist() == [[[[2 * (2.5 + 13), 2 * (5 + 14)], [0, 0]]]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_matches_reference(case, dtype, layout):
    x, *others = args = inputs(case, dtype)
    exact, plain = reference(*to(torch.float64, args)), reference(*args)
    out = feature_aggregation(x.contiguous(memory_format=layout), *others)
    assert_as_accurate(out, exact, plain)


@pytest.mark.parametrize("count", [0, 1, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_computes_the_first_of_them(layout, dtype, count):
    x, *others = args = inputs("one group", dtype)
    how_many = torch.tensor([count])
    x = x.contiguous(memory_format=layout)
    x[count:] = torch.nan
    out = feature_aggregation(x, *others, count=how_many)
    assert out.shape == (7, 32, 14, 14)
    assert out.is_contiguous(memory_format=layout)
    exact = reference(*to(torch.float64, args), count=how_many)
    plain = reference(*args, count=how_many)
    assert_as_accurate(out[:count], exact[:count], plain[:count])
    assert torch.equal(out[:count], feature_aggregation(x, *others)[:count])


@pytest.mark.parametrize("case", ["one group", "no RoI"])
def test_a_count_may_need_gradients(case):
    leaves, args = leaves_of(inputs(case))
    n = len(args[0])
    out = feature_aggregation(*args, count=torch.tensor(n // 2))[: n // 2]
    expected = reference(*args)[: n // 2]
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(expected)
    theirs = torch.autograd.grad(expected, leaves, grad)
    for actual, wanted in zip(torch.autograd.grad(out, leaves, grad), theirs):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_keeps_the_layout(layout, needs_grad):
    x, *others = inputs("two groups", torch.float32)
    x = x.contiguous(memory_format=layout).requires_grad_(needs_grad)
    assert feature_aggregation(x, *others).is_contiguous(memory_format=layout)


def test_any_strides():
    x, level, rois, scale, weights = inputs("odd groups")
    strided = x.repeat_interleave(2, 3)[..., ::2], level.mT.contiguous().mT, rois.T.clone().T
    torch.testing.assert_close(
        feature_aggregation(*strided, scale, weights),
        feature_aggregation(x, level, rois, scale, weights),
    )


def test_dtypes_may_meet():
    x, level, rois, scale, weights = inputs("few channels", torch.float32)
    out = feature_aggregation(x, level.double(), rois.double(), scale, weights)
    assert out.dtype == torch.float32
    x.requires_grad_()
    with_grad = feature_aggregation(x, level.double(), rois.double(), scale, weights)
    torch.testing.assert_close(with_grad, out)


@pytest.mark.cpu_only
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads):
    args = inputs("one group", torch.float32)
    expected = feature_aggregation(*args)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(feature_aggregation(*args), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("case", ["odd groups", "few channels", "no RoI"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(case, layout):
    leaves, args = leaves_of(inputs(case))
    out = feature_aggregation(args[0].contiguous(memory_format=layout), *args[1:])
    expected = reference(*args)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(expected)
    theirs = torch.autograd.grad(expected, leaves, grad)
    for actual, wanted in zip(torch.autograd.grad(out, leaves, grad), theirs):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("which", range(12))
def test_whatever_needs_a_gradient_gets_it(which):
    _, (x, level, rois, scale, weights) = leaves_of(inputs("few channels"))
    tensors = [x, level, *weights]
    tensors = [t.detach().requires_grad_(i == which) for i, t in enumerate(tensors)]
    args = (*tensors[:2], rois, scale, FeatureAggregationWeights(*tensors[2:]))
    feature_aggregation(*args).sum().backward()
    assert tensors[which].grad.any()
    with torch.no_grad():
        assert not feature_aggregation(*args).requires_grad


def test_the_kernel_itself_refuses_to_lose_a_gradient():
    x, level, rois, scale, weights = inputs("few channels")
    op = torch.ops.dynamask.feature_aggregation
    out = op(x.requires_grad_(), level, rois, scale, None, *weights)
    with pytest.raises(
        NotImplementedError, match="feature_aggregation: the kernel has no gradient"
    ):
        out.sum().backward()


@pytest.mark.parametrize("count", [None, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_registration(layout, count):
    x, level, rois, scale, weights = inputs("few channels", torch.float32)
    x = x.contiguous(memory_format=layout)
    count = None if count is None else torch.tensor([count])
    args = (x, level, rois, scale, count, *weights)
    assert_op_is_registered(torch.ops.dynamask.feature_aggregation.default, args)


@pytest.mark.parametrize("needs_grad", [False, True])
def test_compiles_without_a_graph_break(needs_grad):
    compiled = torch.compile(feature_aggregation, fullgraph=True, dynamic=True, backend="aot_eager")
    for case in ("few channels", "one group"):
        x, *others = inputs(case, torch.float32)
        x.requires_grad_(needs_grad)
        out = compiled(x, *others)
        assert out.requires_grad == needs_grad
        torch.testing.assert_close(out, feature_aggregation(x, *others))
        count = torch.tensor([2])
        out = compiled(x, *others, count=count)
        torch.testing.assert_close(out[:2], feature_aggregation(x, *others, count=count)[:2])


@pytest.mark.parametrize("case", ["odd groups", "wide", "no RoI"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_cuda_seat_is_made_of_operators(layout, dtype, case):
    seat = importlib.import_module("dynamask.ops.feature_aggregation")._on_cuda
    x, level, rois, scale, weights = args = inputs(case, dtype)
    out = seat(x.contiguous(memory_format=layout), level, rois, scale, None, *weights)
    assert_as_accurate(out, reference(*to(torch.float64, args)), reference(*args))
    assert out.numel() == 0 or out.is_contiguous(memory_format=layout)


@pytest.mark.filterwarnings("ignore:CUDA is not available")  # a pretended device has no autocast
def test_the_cuda_seat_keeps_the_dtype_under_autocast():
    seat = importlib.import_module("dynamask.ops.feature_aggregation")._on_cuda
    *args, weights = inputs("one group", torch.float32)
    expected = seat(*args, None, *weights)
    with torch.autocast(expected.device.type, torch.bfloat16):
        assert torch.equal(seat(*args, None, *weights), expected)


def change(index, change):
    """The arguments of a call that fits, one of them changed."""
    torch.manual_seed(0)
    args = list(inputs("few channels", torch.float32))
    if isinstance(index, str):
        args[4] = args[4]._replace(**{index: change(getattr(args[4], index))})
    else:
        args[index] = change(args[index])
    return args


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("what", "how", "error", "message"),
    [
        (0, lambda x: x[0], ValueError, r"expected x \[N, C, H, W\], got \[8, 14, 14\]"),
        (0, lambda x: x.int(), TypeError, "expected x of a floating dtype, got torch.int32"),
        (0, lambda x: x[:2], ValueError, "expected rois 2, got 3"),
        (1, lambda x: x[0], ValueError, r"expected level \[B, C', h, w\]"),
        (1, lambda x: x[:, :3], ValueError, "18 offsets|expected reduce_weight"),
        (2, lambda x: x[:, 1:], ValueError, r"expected rois \[N, 5\], got \[3, 4\]"),
        (2, lambda x: x + 1, ValueError, r"expected batch index of boxes in \[0, 2\), got 2.0"),
        (
            "reduce_weight",
            lambda w: w[:, :5],
            ValueError,
            r"expected reduce_weight \[4, 8, 1, 1\], got \[4, 5, 1, 1\]",
        ),
        ("offset1_bias", lambda b: b[:17], ValueError, "expected 18 offsets .*got 17 offsets"),
        ("offset2_weight", lambda w: w[1:], ValueError, r"expected offset2_weight \[18, 4, 1, 1\]"),
        ("attend_weight", lambda w: w.long(), TypeError, "expected attend_weight of a floating"),
    ],
)
def test_says_what_is_wrong(what, how, error, message):
    with pytest.raises(error, match=f"feature_aggregation: .*{message}"):
        feature_aggregation(*change(what, how))


@pytest.mark.parametrize(
    ("count", "error", "message"),
    [
        (torch.tensor([1.0]), TypeError, "expected count of int64, got torch.float32"),
        (torch.tensor([1, 2]), ValueError, "expected values in count 1, got 2"),
        (torch.tensor([4]), ValueError, r"expected count in \[0, 4\), got 4 in row 0"),
        (torch.tensor(-1), ValueError, r"expected count in \[0, 4\), got -1 in row 0"),
        (torch.empty(1, dtype=torch.int64, device="meta"), ValueError, "expected count on .*meta"),
    ],
)
def test_says_what_is_wrong_with_a_count(count, error, message):
    with torch.device("cpu"):
        args = inputs("few channels")
    with pytest.raises(error, match=f"feature_aggregation: {message}"):
        feature_aggregation(*args, count=count)
