import pytest
import torch

from dynamask.ops import class_logits
from dynamask.reference.class_logits import class_logits as reference
from dynamask.testing import assert_as_accurate, assert_op_is_registered

CASES = [  # N, C, H, W, K
    (3, 16, 5, 7, 4),
    (2, 32, 14, 14, 80),
    (1, 33, 3, 17, 2),
    (0, 8, 4, 4, 3),
    (2, 0, 4, 4, 3),
]


def inputs(n, c, h, w, k, dtype=torch.float64):
    features = torch.randn(n, c, h, w, dtype=dtype).requires_grad_()
    weight = torch.randn(k, c, dtype=dtype).requires_grad_()
    bias = torch.randn(k, dtype=dtype).requires_grad_()
    return features, weight, bias, torch.randint(0, k, (n,))


def test_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # [1, 2, 1, 2]
    weight = torch.tensor([[1.0, 1.0], [10.0, -1.0]])
    out = class_logits(features, weight, torch.tensor([0.0, 0.5]), torch.tensor([1]))
    assert out.tolist() == [[[7.5, 16.5]]]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_matches_reference(case, dtype, layout):
    features, weight, bias, labels = (x.detach() for x in inputs(*case, dtype=dtype))
    features = features.contiguous(memory_format=layout)
    exact = reference(features.double(), weight.double(), bias.double(), labels)
    plain = reference(features, weight, bias, labels)
    assert_as_accurate(class_logits(features, weight, bias, labels), exact, plain)


def test_any_strides():
    _, weight, bias, labels = inputs(3, 8, 6, 6, 4)
    sliced = torch.randn(3, 8, 12, 12, dtype=torch.float64)[:, :, ::2, 1::2]
    torch.testing.assert_close(
        class_logits(sliced, weight, bias, labels), reference(sliced, weight, bias, labels)
    )


def test_takes_the_weight_of_a_convolution():
    features, weight, _, labels = inputs(2, 8, 4, 4, 3)
    as_conv = class_logits(features, weight[:, :, None, None], None, labels)
    assert torch.equal(as_conv, class_logits(features, weight, None, labels))


def test_gradcheck():
    features, weight, bias, labels = inputs(3, 4, 3, 2, 5)
    assert torch.autograd.gradcheck(lambda *a: class_logits(*a, labels), (features, weight, bias))
    assert torch.autograd.gradcheck(
        lambda f, w: class_logits(f, w, None, labels), (features, weight)
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_gradients_match_reference(dtype, layout):
    features, weight, bias, labels = inputs(40, 16, 5, 7, 4, dtype=dtype)
    grad = torch.randn(40, 5, 7).to(dtype)

    def gradients(function, wide):
        args = [x.detach().to(wide).requires_grad_() for x in (features, weight, bias)]
        args[0] = args[0].detach().contiguous(memory_format=layout).requires_grad_()
        return torch.autograd.grad(function(*args, labels), args, grad.to(wide))

    got = gradients(class_logits, dtype)
    assert got[0].is_contiguous(memory_format=layout)
    exact, plain = gradients(reference, torch.float64), gradients(reference, dtype)
    for name, *values in zip(("features", "weight", "bias"), got, exact, plain):
        assert_as_accurate(*values, name)


def test_labels_out_of_range_give_zeros():
    features, weight, bias, _ = inputs(3, 4, 3, 2, 5)
    labels = torch.tensor([5, 1, -1], dtype=torch.int16)
    out = torch.ops.dynamask.class_logits(features, weight, bias, labels)
    assert not out[::2].any()
    got = torch.autograd.grad(out.sum(), (features, weight, bias))
    alone = class_logits(features[1:2], weight, bias, labels[1:2])
    for a, b in zip(got, torch.autograd.grad(alone.sum(), (features, weight, bias))):
        torch.testing.assert_close(a, b)


def test_registration():
    assert_op_is_registered(torch.ops.dynamask.class_logits.default, inputs(2, 4, 3, 5, 6))


def test_compiles_without_a_graph_break():
    compiled = torch.compile(class_logits, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (2, 5):
        args = inputs(n, 4, 3, 3, 6)
        torch.testing.assert_close(compiled(*args), class_logits(*args))


F, W, B, L = torch.rand(2, 3, 4, 4), torch.rand(5, 3), torch.rand(5), torch.tensor([0, 1])


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((F[0], W, B, L), ValueError, r"expected features \[N, C, H, W\], got \[3, 4, 4\]"),
        ((F.int(), W, B, L), TypeError, "expected features of a floating dtype, got torch.int32"),
        ((F, W[:, :2], B, L), ValueError, "expected channels in weight 3, got 2"),
        ((F, W, B[:4], L), ValueError, "expected values in bias 5, got 4"),
        ((F, W, B, L[:1]), ValueError, "expected labels 2, got 1"),
        ((F, W, B, L.float()), TypeError, "expected labels of an integer dtype"),
        ((F, W, B, L + 4), ValueError, r"expected labels in \[0, 5\), got 5 in row 1"),
    ],
)
def test_says_what_is_wrong(args, error, message):
    with pytest.raises(error, match=f"class_logits: {message}"):
        class_logits(*args)
