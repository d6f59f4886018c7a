import pytest
import torch

from dynamask.reference.mask_edge_loss import mask_edge_loss as reference
from dynamask.testing import assert_as_accurate

triton = pytest.importorskip("triton")
kernels = pytest.importorskip("dynamask.kernels.mask_edge_loss")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CASES = [  # N, K (None: already selected), H, W
    (3, 5, 14, 14),
    (2, None, 28, 28),
    (2, 1, 5, 7),
    (2, 3, 70, 71),
    (1, 2, 1, 1),
    (0, 3, 4, 4),
]


def inputs(case, dtype, targets):
    n, k, h, w = case
    logits = [(torch.randn((n, h, w) if k is None else (n, k, h, w)) * 4).to(dtype) for _ in "me"]
    wanted = [torch.rand(n, h, w) if targets.is_floating_point else torch.rand(n, h, w).round()] * 2
    labels = None if k is None else torch.randint(0, k, (n,))
    return logits[0], wanted[0].to(targets), logits[1], (1 - wanted[1]).to(targets), labels


def run(mask_logits, mask_targets, edge_logits, edge_targets, labels):
    """Losses, and the gradients of a sum in which each counts differently."""
    args = (mask_logits, mask_targets, edge_logits, edge_targets, labels)
    mask, edge, mask_error, edge_error = kernels.mask_edge_loss(*args, True, True)
    factors = torch.linspace(-2, 3, mask.numel())
    classes = mask_logits.shape[1] if mask_logits.dim() == 4 else 0
    grads = [
        kernels.mask_edge_loss_backward(grad, error, labels, classes)
        for grad, error in ((factors, mask_error), (factors.flip(0), edge_error))
    ]
    return mask, edge, *grads


def expected(mask_logits, mask_targets, edge_logits, edge_targets, labels):
    logits = [mask_logits.clone().requires_grad_(), edge_logits.clone().requires_grad_()]
    mask, edge = reference(logits[0], mask_targets, logits[1], edge_targets, labels=labels)
    factors = torch.linspace(-2, 3, mask.numel(), dtype=mask.dtype)
    total = (factors * mask).sum() + (factors.flip(0) * edge).sum()
    return mask, edge, *torch.autograd.grad(total, logits)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("targets", [torch.bool, torch.uint8, torch.float32], ids=str)
def test_matches_reference(case, dtype, targets):
    args = inputs(case, dtype, targets)
    exact = expected(*(x.double() for x in args[:4]), args[4])
    plain = expected(*args)
    for name, *values in zip(("mask", "edge", "grad_mask", "grad_edge"), run(*args), exact, plain):
        assert_as_accurate(*values, name)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 300.0])
def test_each_pixel_is_accurate(scale):
    """The formulas themselves, no average to hide behind."""
    logits, targets = torch.randn(1, 1, 64) * scale, torch.rand(1, 1, 64)
    rows = logits.view(64, 1, 1), targets.view(64, 1, 1)
    args = (*rows, rows[0], rows[1].round(), None)
    exact, plain = expected(*(x.double() for x in args[:4]), None), expected(*args)
    for name, *values in zip(("mask", "edge", "grad_mask", "grad_edge"), run(*args), exact, plain):
        assert_as_accurate(*values, name)


@pytest.mark.parametrize("target", [0.0, 1.0, 0.5])
def test_what_is_not_finite_gives_what_torch_gives(target):
    inf, nan = float("inf"), float("nan")
    logits = torch.tensor([inf, -inf, nan, 0.0, -0.0, 3e4, -3e4, 100.0, -90.0]).view(-1, 1, 1)
    targets = torch.full_like(logits, target)
    args = (logits, targets, logits, targets, None)
    for got, wanted in zip(run(*args), expected(*args)):
        torch.testing.assert_close(got, wanted, equal_nan=True)


def test_a_small_loss_is_not_lost():
    logits = torch.full((1, 1, 1), 20.0)
    loss, *_ = kernels.mask_edge_loss(logits, logits > 0, None, None, None, False, False)
    torch.testing.assert_close(loss, torch.exp(-logits[0, 0]), rtol=1e-5, atol=0)


def test_any_strides():
    logits, labels = torch.randn(3, 4, 6, 5), torch.tensor([3, 0, 2], dtype=torch.int32)
    targets = torch.rand(3, 12, 10).round()
    views = [
        logits.contiguous(memory_format=torch.channels_last),
        torch.randn(3, 4, 12, 10)[:, :, ::2, ::2],
        logits.transpose(2, 3).contiguous().transpose(2, 3),
        logits[:, :1].expand(3, 4, 6, 5),
    ]
    for view in views:
        args = (view, targets[:, ::2, ::2], view, targets[:, 1::2, ::2].bool(), labels)
        for got, wanted in zip(run(*args), expected(*args)):
            torch.testing.assert_close(got, wanted)


def test_edges_may_have_another_size_other_classes_and_another_dtype():
    masks, mask_targets, _, _, labels = inputs((2, 3, 9, 9), torch.float32, torch.uint8)
    edges, edge_targets = torch.randn(2, 33, 40).bfloat16(), torch.rand(2, 33, 40)
    mask, edge, *errors = kernels.mask_edge_loss(
        masks, mask_targets, edges, edge_targets, labels, False, True
    )
    wanted = reference(masks, mask_targets, edges, edge_targets, labels=labels)
    torch.testing.assert_close((mask, edge), wanted)
    assert [x.numel() for x in errors] == [0, 2 * 33 * 40]


def test_without_edges():
    masks, targets, _, _, labels = inputs((2, 3, 9, 9), torch.float32, torch.uint8)
    mask, edge, *errors = kernels.mask_edge_loss(masks, targets, None, None, labels, True, False)
    torch.testing.assert_close(mask, reference(masks, targets, labels=labels)[0])
    assert [x.numel() for x in (edge, *errors)] == [0, 2 * 81, 0]


def test_labels_out_of_range_give_zeros():
    masks, targets, edges, _, _ = inputs((2, 3, 4, 4), torch.float32, torch.uint8)
    masks[:, 0] = float("nan")  # read in their place
    labels = torch.tensor([3, -1])
    out = kernels.mask_edge_loss(masks, targets, edges, targets, labels, True, True)
    assert not any(x.any() for x in out)
    grad = torch.tensor([1.0, float("inf")])
    assert not kernels.mask_edge_loss_backward(grad, torch.ones(2, 4, 4), labels, 3).any()


def test_a_gradient_of_one_number_for_all_rois():
    error, labels = torch.randn(3, 5, 4), torch.tensor([1, 0, 1])
    one = torch.ones(()).expand(3)
    got = kernels.mask_edge_loss_backward(one, error, labels, 2)
    assert torch.equal(got, kernels.mask_edge_loss_backward(torch.ones(3), error, labels, 2))
