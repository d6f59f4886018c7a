import pytest
import torch

from dynamask.reference.deform_conv2d import deform_conv2d as reference
from dynamask.testing import assert_as_accurate

from .test_deform_conv2d import CASES, LAYOUTS, inputs, laid_out, run, wide

triton = pytest.importorskip("triton")
kernels = pytest.importorskip("dynamask.kernels.deform_conv2d_backward")

NAMES = ("input", "offset", "weight", "mask")
# every case in fp32, and some more; deterministic or not
MORE = ("masked", "weight groups", "1x1", "no channel")
RUNS = [(case, torch.float32, False) for case in CASES]
RUNS += [(case, torch.float32, True) for case in MORE]
RUNS += [(case, torch.bfloat16, i % 2 > 0) for i, case in enumerate(MORE)]
RUNS += [(case, torch.float16, i % 2 == 0) for i, case in enumerate(MORE)]


def expected(tensors, numbers, grad):
    """Gradients of the input, offset, weight and mask by autograd through the reference."""
    leaves = [None if x is None else x.detach().requires_grad_() for x in tensors]
    out = run(reference, leaves, numbers)
    wanted = [leaves[i] for i in (0, 1, 2, 4) if leaves[i] is not None]
    return torch.autograd.grad(out, wanted, grad.to(out.dtype), allow_unused=True)


def gradients(tensors, numbers, grad, needs=(True,) * 4, deterministic=False):
    input, offset, weight, _, mask = tensors
    grads = kernels.deform_conv2d_backward(
        grad, input, offset, weight, mask, *numbers, *needs, deterministic
    )
    return grads if mask is not None else grads[:3]


def some_grad(tensors, numbers):
    return torch.randn(run(reference, tensors, numbers).shape, dtype=torch.float64)


@pytest.mark.parametrize(("case", "dtype", "deterministic"), RUNS)
def test_matches_reference(case, dtype, deterministic):
    tensors, numbers = inputs(case, dtype)
    grad = some_grad(tensors, numbers).to(dtype)
    exact, plain = expected(wide(tensors), numbers, grad), expected(tensors, numbers, grad)
    layout = LAYOUTS[deterministic]
    moved = laid_out(tensors, layout)
    grad = grad.contiguous(memory_format=layout)
    got = gradients(moved, numbers, grad, deterministic=deterministic)
    for name, actual, true, same in zip(NAMES, got, exact, plain):
        assert_as_accurate(actual, true, same, f"gradient of {name}")
    assert case.startswith("no ") or got[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("masked", [True, False])
def test_only_the_gradients_asked_for(masked):
    tensors, numbers = inputs("masked")
    tensors = tensors if masked else (*tensors[:4], None)
    grad = some_grad(tensors, numbers).float()
    everything = gradients(tensors, numbers, grad)
    for i in range(4):
        got = kernels.deform_conv2d_backward(
            grad, *tensors[:3], tensors[4], *numbers, *(i == j for j in range(4)), False
        )
        for j, actual in enumerate(got):
            if i == j < len(everything):
                assert torch.equal(actual, everything[j])
            else:
                assert actual.shape == (0,)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), -float("inf"), 1e30])
def test_where_an_offset_is_no_place_there_is_no_gradient(bad, deterministic):
    tensors, numbers = inputs("masked")
    spoilt, gone = tensors[1].clone(), tensors[1].clone()
    spoilt[0, 7, 2, 3] = bad  # x of tap 3
    spoilt[1, 4] = bad  # y of tap 2, in all of an image
    gone[0, 7, 2, 3] = gone[1, 4] = 100
    grad = some_grad(tensors, numbers).float()
    got, wanted = (
        gradients((tensors[0], x, *tensors[2:]), numbers, grad, deterministic=deterministic)
        for x in (spoilt, gone)
    )
    assert all(torch.equal(a, b) for a, b in zip(got, wanted))
    assert not got[1][1, 4:6].any()


def test_any_strides():
    (_, offset, weight, bias, mask), numbers = inputs("masked")
    sparse = (
        torch.randn(4, 16, 12, 10)[::2, :, ::2, ::2],
        offset.repeat(1, 1, 1, 2)[..., 1::2],
        weight.mT.contiguous().mT,
        bias,
        mask.mT.contiguous().mT,
    )
    dense = [x.contiguous() for x in sparse]
    grad = some_grad(dense, numbers).float()
    got = gradients(sparse, numbers, grad.mT.contiguous().mT)
    torch.testing.assert_close(got, expected(dense, numbers, grad))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_whole_numbers_fit_whatever_the_scale(scale):
    tensors, numbers = inputs("masked")
    grad = some_grad(tensors, numbers).float()
    needs = (True, False, False, False)
    whole = gradients(tensors, numbers, grad, needs, deterministic=True)[0]
    scaled = gradients(tensors, numbers, grad * scale, needs, deterministic=True)[0]
    torch.testing.assert_close(scaled / scale, whole)


def test_whole_numbers_of_what_is_no_number_are_none():
    tensors, numbers = inputs("masked")
    grad = some_grad(tensors, numbers).float()
    grad[0, 0, 0, 0] = float("inf")
    assert gradients(tensors, numbers, grad, deterministic=True)[0].isnan().all()
