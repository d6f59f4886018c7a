import math

import pytest
import torch

from dynamask.ops import mask_edge_loss
from dynamask.reference.mask_edge_loss import mask_edge_loss as reference
from dynamask.testing import assert_as_accurate, assert_op_is_registered

OP = torch.ops.dynamask.mask_edge_loss.default
BACKWARD = torch.ops.dynamask.mask_edge_loss_backward.default
CASES = [  # N, K (None: already selected), H, W
    (3, 5, 14, 14),
    (2, None, 28, 28),
    (2, 1, 5, 7),
    (1, 3, 1, 1),
    (5, None, 33, 19),
    (0, 3, 4, 4),
    (0, None, 4, 4),
]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def logits_of(n, k, h, w, dtype=torch.float64, scale=4.0):
    shape = (n, h, w) if k is None else (n, k, h, w)
    return (torch.randn(shape, dtype=torch.float64) * scale).to(dtype)


def inputs(case, dtype=torch.float64, targets=torch.uint8):
    n, k, h, w = case
    soft = torch.rand(n, h, w)
    wanted = [soft if targets.is_floating_point else soft.round()]
    wanted.append((torch.rand(n, h, w) < 0.2).float())
    masks, edges = (t.to(targets) for t in wanted)
    labels = None if k is None else torch.randint(0, k, (n,))
    return (logits_of(*case, dtype), masks, logits_of(*case, dtype), edges), labels


def run(function, args, labels, weights=None):
    """Losses, and the gradients of a sum in which each counts differently."""
    args = [args[0].clone().requires_grad_(), args[1], args[2].clone().requires_grad_(), args[3]]
    mask, edge = function(*args, labels=labels, weights=weights)
    factors = torch.linspace(-2, 3, mask.numel(), dtype=mask.dtype)
    total = (factors * mask).sum() + (factors.flip(0) * edge).sum()
    return mask, edge, *torch.autograd.grad(total, [args[0], args[2]])


def test_by_hand():
    logits = torch.tensor([[[[9.0]], [[0.0]]], [[[2.0]], [[9.0]]]])  # [2, 2, 1, 1]
    targets = torch.tensor([[[True]], [[False]]])
    mask, edge = mask_edge_loss(logits, targets, labels=torch.tensor([1, 0]))
    assert edge is None
    torch.testing.assert_close(mask, torch.tensor([math.log(2), 2 + math.log1p(math.exp(-2))]))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("targets", [torch.bool, torch.uint8, torch.float32], ids=str)
def test_matches_reference(case, dtype, targets):
    args, labels = inputs(case, dtype, targets)
    weights = torch.rand(case[0])
    got = run(mask_edge_loss, args, labels, weights)
    exact = run(reference, [x.double() for x in args], labels, weights.double())
    plain = run(reference, args, labels, weights)
    for name, *values in zip(("mask", "edge", "grad_mask", "grad_edge"), got, exact, plain):
        assert_as_accurate(*values, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 300.0])
def test_each_pixel_is_accurate(dtype, scale):
    """One pixel per RoI: the polynomials themselves, no average to hide behind."""
    logits = logits_of(4099, None, 1, 1, dtype, scale)
    targets = torch.rand(4099, 1, 1)
    args = (logits, targets, logits, targets.round())
    got = run(mask_edge_loss, args, None)
    exact = run(reference, [x.double() for x in args], None)
    plain = run(reference, args, None)
    for name, *values in zip(("mask", "edge", "grad_mask", "grad_edge"), got, exact, plain):
        assert_as_accurate(*values, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", [0.0, 1.0, 0.5])
def test_what_is_not_finite_gives_what_torch_gives(dtype, target):
    values = [math.inf, -math.inf, math.nan, 0.0, -0.0, 3e4, -3e4, 100.0, -100.0, -90.0]
    logits = torch.tensor(values, dtype=dtype).view(-1, 1, 1)
    args = (logits, torch.full(logits.shape, target), logits, torch.full(logits.shape, target))
    for got, expected in zip(run(mask_edge_loss, args, None), run(reference, args, None)):
        torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_sizes_at_once_equal_each_alone(dtype):
    labels, weights = torch.randint(0, 3, (4,)), torch.rand(4)
    alone = [inputs((4, k, s, s), dtype)[0] for k, s in ((3, 7), (None, 14), (1, 28))]
    together = [list(x) for x in zip(*alone)]
    for x in (*together[0], *together[2]):
        x.requires_grad_()
    mask, edge = mask_edge_loss(*together, labels=labels, weights=weights)
    one_by_one = [mask_edge_loss(*args, labels=labels, weights=weights) for args in alone]
    assert torch.equal(mask, torch.stack([one[0] for one in one_by_one], 1))
    assert torch.equal(edge, torch.stack([one[1] for one in one_by_one], 1))
    expected = reference(*together, labels=labels, weights=weights)
    torch.testing.assert_close((mask, edge), expected)
    logits = [*together[0], *together[2][1:]]  # of one edge no gradient is wanted

    def gradients(losses):
        total = sum(((k + 1) * x).sum() for one in losses for k, x in enumerate(one.unbind(1)))
        return torch.autograd.grad(total, logits)

    for got, wanted in zip(gradients((mask, edge)), gradients(expected)):
        torch.testing.assert_close(got, wanted)


def test_long_sums_are_accurate():
    args, _ = inputs((2, None, 300, 300), torch.float32)
    exact = reference(*(x.double() for x in args))
    for got, truth in zip(mask_edge_loss(*args), exact):
        torch.testing.assert_close(got.double(), truth, rtol=2e-7, atol=0)


def test_edges_may_have_other_classes_and_another_dtype():
    (masks, mask_targets, _, edge_targets), labels = inputs((3, 5, 6, 6), torch.float32)
    for k in (None, 1):
        edges = logits_of(3, k, 6, 6, torch.bfloat16)
        args = (masks, mask_targets, edges, edge_targets)
        for got, expected in zip(run(mask_edge_loss, args, labels), run(reference, args, labels)):
            torch.testing.assert_close(got, expected)


def test_any_strides():
    logits = torch.randn(3, 4, 6, 5, dtype=torch.float64)
    targets = torch.rand(3, 12, 10).round()
    labels = torch.tensor([3, 0, 2])
    views = [
        logits.contiguous(memory_format=torch.channels_last),
        torch.randn(3, 4, 12, 10, dtype=torch.float64)[:, :, ::2, ::2],
        logits.transpose(2, 3).contiguous().transpose(2, 3),
        logits[:, :1].expand(3, 4, 6, 5),
    ]
    for view in views:
        args = (view, targets[:, ::2, ::2], view, targets[:, 1::2, ::2].bool())
        for got, expected in zip(run(mask_edge_loss, args, labels), run(reference, args, labels)):
            torch.testing.assert_close(got, expected)


def test_only_requested_gradients():
    (masks, mask_targets, edges, edge_targets), _ = inputs((2, None, 4, 4))
    args = (mask_targets, edges.requires_grad_(), edge_targets)
    lists = [[x] for x in (masks, *args)]
    mask, edge, of_masks, of_edges = OP(*lists, None, False, True)
    assert [x.shape for x in (mask, edge, *of_edges)] == [(2, 1), (2, 1), (2, 4, 4)]
    assert of_masks == []
    _, edge = mask_edge_loss(masks, *args)
    edge.sum().backward()
    assert masks.grad is None
    assert edges.grad is not None
    with torch.no_grad():
        assert not mask_edge_loss(masks, *args)[1].requires_grad


def test_one_loss_can_be_left_unused():
    args, labels = inputs((2, 3, 4, 4))
    masks, edges = args[0].requires_grad_(), args[2].requires_grad_()
    mask, _ = mask_edge_loss(masks, args[1], edges, args[3], labels=labels)
    mask.sum().backward()
    assert masks.grad.any()
    assert edges.grad is None


def test_gradcheck():
    args, labels = inputs((3, 4, 3, 2), targets=torch.float64)
    masks, edges = args[0].requires_grad_(), args[2].requires_grad_()
    weights = torch.rand(3, dtype=torch.float64).requires_grad_()

    def losses(masks, edges, weights):
        return mask_edge_loss(masks, args[1], edges, args[3], labels=labels, weights=weights)

    assert torch.autograd.gradcheck(losses, (masks, edges, weights))
    selected = args[0][:, 0].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mask_edge_loss(x, args[1])[0], (selected,))


def test_labels_out_of_range_give_zeros():
    (masks, targets, edges, _), _ = inputs((2, 3, 4, 4))
    labels = torch.tensor([3, -1])
    mask, edge, of_masks, of_edges = OP([masks], [targets], [edges], [targets], labels, True, True)
    assert not any(x.any() for x in (mask, edge, *of_masks, *of_edges))
    (grad,) = BACKWARD([torch.ones(2)], [torch.ones(2, 4, 4)], labels, [3])
    assert not grad.any()


def test_threads_give_the_same_bits():
    args, labels = inputs((40, 3, 28, 28), torch.float32)
    together = mask_edge_loss(*args, labels=labels)
    for n in range(40):
        one = [x[n : n + 1] for x in args]
        alone = mask_edge_loss(*one, labels=labels[n : n + 1])
        assert all(torch.equal(a[n : n + 1], b) for a, b in zip(together, alone))


def test_registration():
    args, labels = inputs((2, 3, 5, 4))
    with_grad = [[args[0].requires_grad_()], [args[1]], [args[2].requires_grad_()], [args[3]]]
    assert_op_is_registered(OP, (*with_grad, labels, True, True))
    assert_op_is_registered(
        OP, ([args[0].detach()] * 2, [args[1]] * 2, [], [], labels, *[False] * 2)
    )
    error = torch.rand(2, 5, 4)
    assert_op_is_registered(BACKWARD, ([torch.rand(2)], [error], labels, [3]))
    assert_op_is_registered(BACKWARD, ([torch.rand(2)] * 2, [error] * 2, None, [0, 1]))


def test_compiles_without_a_graph_break():
    def total(masks, mask_targets, edges, edge_targets, labels):
        losses = mask_edge_loss(masks, mask_targets, edges, edge_targets, labels=labels)
        return losses[0].sum() - losses[1].sum()

    compiled = torch.compile(total, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (2, 5):
        args, labels = inputs((n, 3, 4, 4))
        logits = [args[0].requires_grad_(), args[2].requires_grad_()]
        got = torch.autograd.grad(compiled(*args, labels), logits)
        expected = torch.autograd.grad(total(*args, labels), logits)
        torch.testing.assert_close(got, expected)


X, T, L = torch.rand(2, 3, 4, 4), torch.ones(2, 4, 4), torch.tensor([0, 2])


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((X, T), {}, ValueError, "expected labels for 3 classes, got None"),
        ((X[:, 0], T[:1]), {}, ValueError, r"expected mask_logits \[1, 4, 4\], got \[2, 4, 4\]"),
        ((X.int(), T), {}, TypeError, "expected mask_logits of a floating dtype"),
        ((X[:, 0], T.int()), {}, TypeError, "expected mask_targets of bool, uint8 or float"),
        ((X[:, 0], T[0]), {}, ValueError, r"expected mask_targets \[N, S, S\]"),
        ((X[:, 0], T, X[:, 0]), {}, ValueError, "expected edge_logits and edge_targets, got one"),
        ((X[:, 0], T, X[:1, 0], T[:1]), {}, ValueError, "expected RoIs in edge_logits 2, got 1"),
        ((X, T), {"labels": L[:1]}, ValueError, "expected labels 2, got 1"),
        ((X, T), {"labels": L.float()}, TypeError, "expected labels of an integer dtype"),
        ((X, T), {"labels": L + 1}, ValueError, r"expected labels in \[0, 3\), got 3 in row 1"),
        (([X[:, 0]], [T, T]), {}, ValueError, "expected tensors in mask_targets 1, got 2"),
        (([], []), {}, ValueError, "expected mask_logits of a mask size at least, got none"),
        (
            ([X[:, 0], X[:, 0].double()], [T, T]),
            {},
            TypeError,
            "expected mask_logits of fp64",
        ),
        (
            ([X[:, 0], X[:1, 0]], [T, T[:1]]),
            {},
            ValueError,
            "expected RoIs in mask_logits 2, got 1",
        ),
        ((X[:, 0], T), {"weights": L}, TypeError, "expected weights of a floating dtype"),
        ((X[:, 0], T), {"weights": T[:1, 0, 0]}, ValueError, "expected weights 2, got 1"),
    ],
)
def test_says_what_is_wrong(args, options, error, message):
    with pytest.raises(error, match=f"mask_edge_loss: {message}"):
        mask_edge_loss(*args, **options)
