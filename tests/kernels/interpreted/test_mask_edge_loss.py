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
    args = ([mask_logits], [mask_targets], [edge_logits], [edge_targets], labels)
    mask, edge, mask_errors, edge_errors = kernels.mask_edge_loss(*args, True, True)
    factors = torch.linspace(-2, 3, mask.numel())
    grads = kernels.mask_edge_loss_backward(
        [factors, factors.flip(0)],
        [*mask_errors, *edge_errors],
        labels,
        [x.shape[1] if x.dim() == 4 else 0 for x in (mask_logits, edge_logits)],
    )
    return mask[:, 0], edge[:, 0], *grads


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
    loss, *_ = kernels.mask_edge_loss([logits], [logits > 0], [], [], None, False, False)
    torch.testing.assert_close(loss[0], torch.exp(-logits[0, 0]), rtol=1e-5, atol=0)


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


def test_several_sizes_in_one_launch():
    """Of other sizes, classes and dtypes; of the masks no gradient is wanted."""
    masks, mask_targets, _, _, labels = inputs((2, 3, 9, 9), torch.float32, torch.uint8)
    others, other_targets, *_ = inputs((2, None, 5, 50), torch.float16, torch.bool)
    edges, edge_targets = torch.randn(2, 1, 33, 70).bfloat16(), torch.rand(2, 33, 70)
    lists = [masks, others], [mask_targets, other_targets], [edges], [edge_targets]
    mask, edge, of_masks, of_edges = kernels.mask_edge_loss(*lists, labels, False, True)
    torch.testing.assert_close((mask, edge), reference(*lists, labels=labels))
    assert of_masks == []
    assert [x.shape for x in of_edges] == [(2, 33, 70)]


def test_several_gradients_in_one_launch():
    labels, grads = torch.tensor([2, 0]), torch.randn(2, 3)
    errors = [torch.randn(2, 9, 9), torch.randn(2, 5, 50).half(), torch.randn(2, 33, 70)]
    got = kernels.mask_edge_loss_backward(grads.unbind(1), errors, labels, [3, 0, 1])
    for k, (error, classes) in enumerate(zip(errors, (3, 0, 1))):
        mean = error.float() * (grads[:, k] / error[0].numel())[:, None, None]
        wanted = torch.zeros(2, max(classes, 1), *error.shape[1:])
        wanted[range(2), labels if classes > 1 else 0] = mean
        wanted = wanted[:, 0] if classes == 0 else wanted
        torch.testing.assert_close(got[k], wanted.to(error.dtype))


def test_without_edges():
    masks, targets, _, _, labels = inputs((2, 3, 9, 9), torch.float32, torch.uint8)
    mask, edge, *_ = kernels.mask_edge_loss([masks], [targets], [], [], labels, True, False)
    torch.testing.assert_close(mask[:, 0], reference(masks, targets, labels=labels)[0])
    assert edge.shape == (2, 0)


def test_labels_out_of_range_give_zeros():
    masks, targets, edges, _, _ = inputs((2, 3, 4, 4), torch.float32, torch.uint8)
    masks[:, 0] = float("nan")  # read in their place
    labels = torch.tensor([3, -1])
    lists = [masks], [targets], [edges], [targets]
    mask, edge, of_masks, of_edges = kernels.mask_edge_loss(*lists, labels, True, True)
    assert not any(x.any() for x in (mask, edge, *of_masks, *of_edges))
    grads, errors = [torch.tensor([1.0, float("inf")])], [torch.ones(2, 4, 4)]
    assert not kernels.mask_edge_loss_backward(grads, errors, labels, [3])[0].any()


def test_a_gradient_of_one_number_for_all_rois():
    error, labels = torch.randn(3, 5, 4), torch.tensor([1, 0, 1])
    one, ones = torch.ones(()).expand(3), torch.ones(3)
    got, expected = (
        kernels.mask_edge_loss_backward([grad], [error], labels, [2])[0] for grad in (one, ones)
    )
    assert torch.equal(got, expected)
