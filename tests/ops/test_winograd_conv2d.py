import pytest
import torch
import torch.nn.functional as F

from dynamask.ops import winograd_conv2d, winograd_conv2d_weight
from dynamask.reference import winograd_conv2d as reference
from dynamask.testing import assert_as_accurate

pytestmark = pytest.mark.cpu_only  # an operator for the CPU

CASES = [  # N, C, O, H, W
    (2, 16, 32, 8, 12),
    (1, 33, 40, 14, 14),
    (3, 3, 5, 7, 9),
    (1, 8, 64, 1, 1),
    (2, 1, 1, 2, 3),
    (0, 8, 8, 5, 5),
    (1, 70, 33, 41, 30),
]


def inputs(n, c, o, h, w, dtype=torch.float64):
    x = torch.randn(n, c, h, w, dtype=dtype)
    weight = torch.randn(o, c, 3, 3, dtype=dtype) / (3 * c**0.5)
    return x, weight, torch.randn(o, dtype=dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("convolve", ["ops", "reference"])
def test_is_the_convolution(case, relu, convolve):
    x, weight, bias = inputs(*case)
    expected = F.conv2d(x, weight, bias, padding=1)
    expected = expected.relu() if relu else expected
    if convolve == "ops":
        found = winograd_conv2d(x, winograd_conv2d_weight(weight), bias, relu=relu)
    else:
        packed = reference.winograd_conv2d_weight(weight)
        found = reference.winograd_conv2d(x, packed, bias, relu=relu)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_matches_reference(case, dtype, layout):
    x, weight, bias = inputs(*case, dtype=dtype)
    x = x.contiguous(memory_format=layout)
    packed = winograd_conv2d_weight(weight)
    bias = bias.to(packed.dtype)
    exact = reference.winograd_conv2d(x.double(), packed.double(), bias.double())
    plain = reference.winograd_conv2d(x, packed, bias)
    found = winograd_conv2d(x, packed, bias)
    assert found.numel() < 2 or found.is_contiguous(memory_format=torch.channels_last)
    assert_as_accurate(found, exact, plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_match_reference(dtype):
    weight = torch.randn(45, 7, 3, 3, dtype=dtype)
    found, expected = winograd_conv2d_weight(weight), reference.winograd_conv2d_weight(weight)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_errs_little_more_than_a_direct_sum():
    x, weight, bias = (t.float() for t in inputs(1, 256, 64, 28, 28))
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    found = winograd_conv2d(x, winograd_conv2d_weight(weight), bias)
    direct = F.conv2d(x, weight, bias, padding=1)
    error, allowed = ((y - exact).square().mean().sqrt() for y in (found, direct))
    assert error < 8 * allowed
    assert error < 2e-6 * exact.std()


def test_any_strides():
    x, weight, bias = inputs(1, 8, 8, 24, 24)
    x, packed = x[:, :, ::2, 1::2], winograd_conv2d_weight(weight)
    assert winograd_conv2d(x, packed, bias).equal(winograd_conv2d(x.clone(), packed, bias))


def test_the_threads_make_no_difference():
    x, weight, bias = inputs(2, 8, 8, 40, 40)
    packed = winograd_conv2d_weight(weight)
    threads, found = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(winograd_conv2d(x, packed, bias))
    torch.set_num_threads(threads)
    assert found[0].equal(found[1])


def test_registration():
    x, weight, bias = inputs(2, 4, 6, 9, 9)
    x = x.contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(torch.ops.dynamask.winograd_conv2d_weight.default, (weight,))
    packed = winograd_conv2d_weight(weight)
    torch.library.opcheck(torch.ops.dynamask.winograd_conv2d.default, (x, packed, bias, True))


def test_compiles_without_a_graph_break():
    compiled = torch.compile(winograd_conv2d, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (2, 5):
        x, weight, bias = inputs(n, 4, 6, 9, 9)
        packed = winograd_conv2d_weight(weight)
        torch.testing.assert_close(compiled(x, packed, bias), winograd_conv2d(x, packed, bias))


X, P, B = torch.rand(2, 3, 4, 4), torch.rand(36, 1, 3, 32), torch.rand(5)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((X[0], P, B), ValueError, r"expected input \[N, C, H, W\], got \[3, 4, 4\]"),
        ((X.int(), P, B), TypeError, "expected input of a floating dtype, got torch.int32"),
        ((X, P[:9], B), ValueError, r"expected weight \[36, P, C, 32\]"),
        ((X, P[:, :, :2], B), ValueError, "expected channels in weight 3, got 2"),
        ((X, P, torch.rand(40)), ValueError, "expected panels in weight 2, got 1"),
        ((X, P.double(), B), TypeError, "expected weight of torch.float32, got torch.float64"),
    ],
)
def test_says_what_is_wrong(args, error, message):
    with pytest.raises(error, match=f"winograd_conv2d: {message}"):
        winograd_conv2d(*args)


def test_a_weight_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"expected weight \[O, C, 3, 3\], got \[4, 4, 1, 1\]"):
        winograd_conv2d_weight(torch.rand(4, 4, 1, 1))
