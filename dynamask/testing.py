"""Assertions for operators: public, so that authors of other kernels can use them too."""

import torch
from torch import Tensor


def assert_as_accurate(actual: Tensor, exact: Tensor, plain: Tensor, name: str = "output") -> None:
    """Asserts that a kernel errs at most twice as much as the plain reference in its own dtype.

    Args:
        actual: What the kernel under test returned.
        exact: What the reference returns in fp64: the truth.
        plain: What the reference returns in the dtype of ``actual``.
        name: What is compared, for the message.

    Raises:
        AssertionError: with both errors, if the largest error of ``actual`` is more than twice that
            of ``plain`` plus one unit in the last place of the largest value (in fp64, where the
            reference is the truth itself: more than 1e-10 of the largest value); or if shapes or
            dtypes differ, or a value is not finite where the truth is.
    """
    assert actual.shape == exact.shape, f"{name}: shape {actual.shape}, expected {exact.shape}"
    assert actual.dtype == plain.dtype, f"{name}: dtype {actual.dtype}, expected {plain.dtype}"
    if actual.numel() == 0:
        return
    error, allowed = ((x.double() - exact.double()).abs().max() for x in (actual, plain))
    slack = 1e-10 if actual.dtype == torch.float64 else torch.finfo(actual.dtype).eps
    assert error <= 2 * allowed + slack * exact.double().abs().max(), (
        f"{name}: error {error:.3g} is more than twice the reference's own {allowed:.3g} "
        f"in {actual.dtype}"
    )


def assert_op_is_registered(op, args: tuple) -> None:
    """Runs all four checks of :func:`torch.library.opcheck` on one call."""
    torch.library.opcheck(op, args)
