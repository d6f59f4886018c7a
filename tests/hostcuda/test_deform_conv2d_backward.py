import pytest
import torch

from dynamask.reference.deform_conv2d import deform_conv2d as reference
from dynamask.testing import assert_as_accurate

from .conftest import SANITIZERS, SanitizerError, split
from .test_deform_conv2d import CASES, DTYPES, FEW, arguments, by_taps, rows, run, tensors

# small parts, so that there are some
FEW = {**FEW, "kFewest = 256": "kFewest = 16", "kSumThreads = 256": "kSumThreads = 32"}


def backward(driver, case, given, pairs, grad, deterministic):
    """The gradients of the features, the offsets, the mask and the weight, in the sums' dtype."""
    input, offset, weight, _, mask = given
    data = driver.run(
        *(*arguments(case, given, pairs), deterministic, rows(grad), by_taps(case, weight).mT)
    )
    like = [offset.new_empty(input.permute(0, 2, 3, 1).shape), offset]
    like += [offset.new_empty(0) if mask is None else mask, weight]
    features, *rest = split(data, like)
    return features.permute(0, 3, 1, 2), *rest


def expected(given, pairs, grad):
    leaves = [x if x is None else x.detach().requires_grad_() for x in given]
    out = run(reference, leaves, pairs)
    input, offset, weight, _, mask = leaves
    wanted = [x for x in (input, offset, mask, weight) if x is not None]
    return torch.autograd.grad(out, wanted, grad.to(out.dtype))


@pytest.mark.parametrize("deterministic", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [x for x in CASES if not x.startswith("no ")])
def test_matches_reference(hostcuda, case, dtype, deterministic):
    given, pairs = tensors(case, dtype)
    out = run(reference, given, pairs)
    grad = torch.randn(out.shape).to(dtype)
    driver = hostcuda("deform_conv2d_backward", "memory", FEW)
    got = backward(driver, case, given, pairs, grad, deterministic)
    exact = expected([x if x is None else x.double() for x in given], pairs, grad)
    plain = expected(given, pairs, grad)
    got = [x for x in got if x.numel() > 0]
    for name, actual, truth, same in zip(("features", "offset", "mask"), got, exact, plain):
        assert_as_accurate(actual.to(same.dtype), truth, same, name)
    assert_as_accurate(got[-1].to(plain[-1].dtype), exact[-1], plain[-1], "weight")


def test_has_no_races_and_repeats_itself(hostcuda):
    given, pairs = tensors("groups", torch.float32)
    grad = torch.randn_like(run(reference, given, pairs))
    driver = hostcuda("deform_conv2d_backward", "threads", FEW)
    one, other = (backward(driver, "groups", given, pairs, grad, 1) for _ in range(2))
    free = backward(driver, "groups", given, pairs, grad, 0)
    for a, b, c, wanted in zip(one, other, free, expected(given, pairs, grad)):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(c, wanted, rtol=1e-4, atol=1e-4)


def test_without_output_channels_there_is_nothing_to_sum(hostcuda):
    given, pairs = tensors("no output", torch.float32)
    grad = torch.zeros_like(run(reference, given, pairs))
    driver = hostcuda("deform_conv2d_backward", "threads", FEW)
    for gradient in backward(driver, "no output", given, pairs, grad, 0):
        assert not gradient.any()


@pytest.mark.parametrize("deterministic", [0, 1])
def test_a_gradient_that_is_not_finite_shows(hostcuda, deterministic):
    given, pairs = tensors("odd channels", torch.float32)
    grad = torch.ones_like(run(reference, given, pairs))
    grad[0, 0] = float("inf")
    driver = hostcuda("deform_conv2d_backward", "memory", FEW)
    features, *_, weight = backward(driver, "odd channels", given, pairs, grad, deterministic)
    assert not features.isfinite().all()
    assert not weight.isfinite().all()


@pytest.mark.parametrize(
    ("sanitizer", "right", "wrong", "report"),
    [
        ("threads", "__syncthreads();\n      columns.add", "columns.add", "data race"),
        ("threads", "atomicAdd(place + c, part.value[c])", "place[c] += part.value[c]", "race"),
        ("memory", "p < end && first_out", "p <= end && first_out", "heap-buffer-overflow"),
    ],
    ids=["barrier", "lost atomic", "pixel too many"],
)
def test_planted_faults_are_caught(hostcuda, sanitizer, right, wrong, report):
    assert sanitizer in SANITIZERS
    given, pairs = tensors("wide", torch.float32)
    grad = torch.randn_like(run(reference, given, pairs))
    driver = hostcuda("deform_conv2d_backward", sanitizer, {**FEW, right: wrong})
    with pytest.raises(SanitizerError, match=report):
        backward(driver, "wide", given, pairs, grad, 1)
