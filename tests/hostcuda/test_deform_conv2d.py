import pytest
import torch

from dynamask.reference.deform_conv2d import deform_conv2d as reference
from dynamask.testing import assert_as_accurate

from .conftest import SANITIZERS, SanitizerError, split

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# 4 x 4 threads: tiles are a quarter as high and as wide, and steps a quarter as deep
FEW = {"kSide = 16": "kSide = 4", "kDepth = 128 / sizeof(T)": "kDepth = 32 / sizeof(T)"}

CASES = {
    # n, c, h, w, out, kernel, groups, offset groups, masked, stride, padding, dilation
    "wide": (2, 12, 4, 5, 34, (2, 2), 1, 1, True, 1, 1, 1),
    "groups": (2, 12, 4, 3, 27, (3, 1), 3, 2, True, (1, 2), 1, (2, 1)),
    "odd channels": (1, 7, 3, 4, 6, (1, 3), 1, 1, False, 1, (0, 2), 1),
    "no channel": (1, 0, 3, 4, 2, (1, 1), 1, 1, False, 1, 0, 1),
    "no output": (1, 9, 5, 5, 0, (1, 1), 1, 1, True, 1, 0, 1),
}


def tensors(case, dtype):
    """The five tensors of a case, and its three pairs of numbers; some offsets are no places."""
    n, c, h, w, out, kernel, groups, offset_groups, masked, *numbers = CASES[case]
    pairs = [(x, x) if isinstance(x, int) else x for x in numbers]
    size = [
        (length + 2 * pad - spread * (k - 1) - 1) // step + 1
        for length, k, step, pad, spread in zip((h, w), kernel, *pairs)
    ]
    planes = offset_groups * kernel[0] * kernel[1]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    offset = torch.randn(n, 2 * planes, *size, dtype=wide) * 1.5
    offset[0, 0, 0, :2] = torch.tensor([float("nan"), float("inf")])
    offset[0, -1, -1, -1] = -1e30
    mask = torch.rand(n, planes, *size, dtype=wide) if masked else None
    weight = torch.randn(out, c // groups, *kernel, dtype=wide)
    bias = torch.randn(out, dtype=wide)
    return (torch.randn(n, c, h, w).to(dtype), offset, weight, bias, mask), pairs


def numbers(x):
    """A tensor as drivers read it: 16 bits as integers."""
    return x.contiguous().view(torch.int16) if x.element_size() == 2 else x.contiguous()


def rows(x):
    return numbers(x.permute(0, 2, 3, 1))


def shape_of(case, given, pairs):
    input, offset, weight, _, _ = given
    _, _, _, _, _, _, groups, offset_groups, *_ = CASES[case]
    sizes = (*input.shape, weight.shape[0], *offset.shape[2:], *weight.shape[2:])
    pairs = [number for pair in pairs for number in pair]
    return torch.tensor([*sizes, *pairs, groups, offset_groups])


def arguments(case, given, pairs):
    """What both drivers read first."""
    input, offset, _, _, mask = given
    dtype = DTYPES.index(input.dtype)
    mask = offset.new_empty(0) if mask is None else mask
    return dtype, shape_of(case, given, pairs), rows(input), offset, mask


def by_taps(case, weight):
    """The weight as kernels read it: [groups, taps, C / groups, O / groups]."""
    groups = CASES[case][6]
    return weight.flatten(2).unflatten(0, (groups, len(weight) // groups)).permute(0, 3, 2, 1)


def convolve(driver, case, given, pairs):
    input, offset, weight, bias, _ = given
    data = driver.run(*arguments(case, given, pairs), by_taps(case, weight), bias)
    like = torch.empty(len(input), *offset.shape[2:], len(weight), dtype=input.dtype)
    return split(data, [numbers(like)])[0].view(input.dtype).permute(0, 3, 1, 2)


def run(op, given, pairs):
    input, offset, weight, bias, mask = given
    return op(input, offset, weight, bias, *pairs, mask=mask)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_matches_reference(hostcuda, case, dtype):
    given, pairs = tensors(case, dtype)
    exact = run(reference, [x if x is None else x.double() for x in given], pairs)
    plain = run(reference, given, pairs)
    driver = hostcuda("deform_conv2d", "memory", FEW)
    assert_as_accurate(convolve(driver, case, given, pairs), exact, plain)


def test_long_sums_are_as_accurate_as_short_ones(hostcuda, monkeypatch):
    monkeypatch.setitem(CASES, "long", (1, 256, 4, 4, 8, (3, 3), 1, 1, False, 1, 1, 1))
    given, pairs = tensors("long", torch.float32)
    exact = run(reference, [x if x is None else x.double() for x in given], pairs)
    plain = run(reference, given, pairs)
    driver = hostcuda("deform_conv2d", "memory", FEW)
    assert_as_accurate(convolve(driver, "long", given, pairs), exact, plain)


def test_has_no_races(hostcuda):
    given, pairs = tensors("groups", torch.float32)
    driver = hostcuda("deform_conv2d", "threads", FEW)
    got = convolve(driver, "groups", given, pairs)
    torch.testing.assert_close(got, run(reference, given, pairs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("sanitizer", "right", "wrong", "report"),
    [
        ("threads", "        __syncthreads();\n        product", "        product", "data race"),
        ("threads", "weights);\n        __syncthreads();", "weights);", "data race"),
        ("memory", "left = 0 <= s.x &&", "left = 0 < s.x + 2 &&", "heap-buffer-overflow"),
        ("memory", "first_out + o < group_outs", "first_out + o <= group_outs", "heap-buffer"),
    ],
    ids=["barrier before", "barrier after", "column outside", "channel too many"],
)
def test_planted_faults_are_caught(hostcuda, sanitizer, right, wrong, report):
    assert sanitizer in SANITIZERS
    given, pairs = tensors("wide", torch.float32)
    driver = hostcuda("deform_conv2d", sanitizer, {**FEW, right: wrong})
    with pytest.raises(SanitizerError, match=report):
        convolve(driver, "wide", given, pairs)
