import pytest
import torch

from dynamask.ops import RoIAlign, roi_align
from dynamask.reference.roi_align import roi_align as reference
from dynamask.testing import assert_as_accurate, assert_op_is_registered

from .on_cpu import on_cpu

CASES = [  # N, C, H, W, boxes, output_size, scale
    (2, 5, 10, 13, 6, (3, 4), 0.5),
    (1, 37, 20, 24, 5, (7, 7), 0.25),
    (1, 130, 9, 33, 3, (2, 30), 1.0),
    (3, 4, 1, 2, 9, (2, 2), 0.1),
    (1, 4, 6, 6, 0, (2, 2), 1.0),
    (2, 0, 6, 6, 3, (2, 2), 1.0),
    (1, 3, 0, 6, 2, (2, 2), 1.0),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def inputs(n, c, h, w, k, output_size, scale, dtype=torch.float64):
    boxes = torch.rand(k, 5) * torch.tensor([0, w, h, w, h]) / scale - 1
    boxes[:, 3:] += boxes[:, 1:3]
    boxes[:, 0] = torch.randint(0, n, (k,))
    return torch.randn(n, c, h, w, dtype=dtype), boxes, output_size, scale


def gradient(op, x, *args):
    x = x.detach().requires_grad_()
    out = op(x, *args)
    return torch.autograd.grad(out, x, torch.linspace(-1, 1, out.numel()).view_as(out).to(out))[0]


def test_by_hand():
    ramp = torch.arange(16.0).view(1, 1, 4, 4)  # 4 y + x
    # one sample in the middle of each bin, at x and y of 0.5 and 1.5
    out = roi_align(ramp, torch.tensor([[0.0, 0, 0, 2, 2]]), 2, sampling_ratio=1)
    assert out.tolist() == [[[[2.5, 3.5], [6.5, 7.5]]]]
    # half a pixel up and left
    out = roi_align(ramp, torch.tensor([[0.0, 1, 1, 3, 3]]), 2, sampling_ratio=1, aligned=True)
    assert out.tolist() == [[[[5.0, 6.0], [9.0, 10.0]]]]


def test_gradient_by_hand():
    x = torch.zeros(1, 1, 2, 3, requires_grad=True)
    # samples at x = 0.5 (half of pixels 0 and 1) and x = 2.5 (the border pixel); y = 0
    roi_align(
        x, torch.tensor([[0.0, -0.5, -0.5, 3.5, 0.5]]), (1, 2), sampling_ratio=1
    ).sum().backward()
    assert x.grad.tolist() == [[[[0.5, 0.5, 1.0], [0.0, 0.0, 0.0]]]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case, dtype, layout):
    x, *args = inputs(*case, dtype=dtype)
    x = x.contiguous(memory_format=layout)
    for sampling_ratio, aligned in ((-1, False), (2, True)):
        options = (*args, sampling_ratio, aligned)
        exact, plain = reference(x.double(), *options), reference(x, *options)
        assert_as_accurate(roi_align(x, *options), exact, plain)
        exact, plain = gradient(reference, x.double(), *options), gradient(reference, x, *options)
        assert_as_accurate(gradient(roi_align, x, *options), exact, plain, "grad_input")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sampling_ratio", [-1, 1, 2, 5])
@pytest.mark.parametrize("aligned", [False, True])
def test_agrees_with_torchvision(layout, dtype, sampling_ratio, aligned):
    ops = pytest.importorskip("torchvision").ops
    x, boxes, output_size, scale = inputs(2, 21, 40, 50, 60, (7, 9), 0.125, dtype)
    boxes[:5, 3:] = boxes[:5, 1:3]  # no area
    if not (aligned and sampling_ratio < 0):  # torchvision fails there
        boxes[5:10, 1:] = boxes[5:10, [3, 4, 1, 2]]  # inside out
    boxes[10:15, 1:3] -= 300  # largely outside
    boxes[15:20, 3:] += 2000
    args = (boxes.to(dtype), output_size, scale, sampling_ratio, aligned)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}
    x = x.contiguous(memory_format=layout)
    theirs, their_gradient = on_cpu(ops.roi_align), on_cpu(gradient)
    torch.testing.assert_close(roi_align(x, *args), theirs(x, *args), **tolerance)
    torch.testing.assert_close(
        gradient(roi_align, x, *args), their_gradient(ops.roi_align, x, *args), **tolerance
    )


def test_a_list_of_boxes_per_image():
    x, boxes, *args = inputs(*CASES[0])
    boxes[:, 0] = torch.tensor([0, 0, 0, 0, 1, 1])
    per_image = [boxes[:4, 1:], boxes[4:, 1:]]
    assert torch.equal(roi_align(x, per_image, *args), roi_align(x, boxes, *args))
    assert torch.equal(RoIAlign(args[0], args[1], -1)(x, per_image), roi_align(x, boxes, *args))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_boxes_are_read_in_their_own_dtype(dtype):
    # near pixel 1000 fp16 tells halves apart and bf16 only steps of 4
    x = torch.arange(1200.0, dtype=dtype).expand(1, 1, 2, 1200)
    box = torch.tensor([[0, 1000.25, 0, 1001.25, 1]])
    expected = torch.tensor(1000.75, dtype=dtype)
    value = roi_align(x, box, 1, sampling_ratio=1).flatten()
    assert torch.allclose(value, expected.to(value), rtol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_channels_last_in_channels_last_out(dtype):
    x, *args = inputs(*CASES[1], dtype=dtype)
    last = x.contiguous(memory_format=torch.channels_last)
    out = roi_align(last, *args)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert gradient(roi_align, last, *args).is_contiguous(memory_format=torch.channels_last)
    assert roi_align(x, *args).is_contiguous()
    torch.testing.assert_close(out, roi_align(x, *args))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_the_incoming_gradient_does_not_matter(layout):
    x, *args = inputs(*CASES[1], dtype=torch.float32)
    x = x.contiguous(memory_format=layout).requires_grad_()
    out = roi_align(x, *args)
    g = torch.randn_like(out)
    first, *others = (
        torch.autograd.grad(out, x, g.contiguous(memory_format=other), retain_graph=True)[0]
        for other in LAYOUTS
    )
    assert torch.equal(first, others[0])


def test_any_strides():
    big = torch.randn(2, 8, 20, 40, dtype=torch.float64)
    _, *args = inputs(2, 4, 10, 20, 6, (3, 3), 1.0)
    for x in (
        big[:, ::2, ::2, 1::2],
        big.transpose(2, 3)[:, 4:, 20:, 5:15],
        big[:, :1].expand(2, 4, 20, 40),
    ):
        torch.testing.assert_close(roi_align(x, *args), reference(x, *args))
    x = big[:, :4, :10, :20].requires_grad_()
    out = roi_align(x, *args)
    g = torch.randn(out.shape[::-1], dtype=x.dtype).permute(3, 2, 1, 0)
    strided, dense = (
        torch.autograd.grad(out, x, v, retain_graph=True) for v in (g, g.contiguous())
    )
    assert torch.equal(strided[0], dense[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_boxes_that_are_not_finite_give_zeros(layout, bad, sampling_ratio):
    x, boxes, *args = inputs(*CASES[1], dtype=torch.float32)
    x, args = x.contiguous(memory_format=layout), (*args, sampling_ratio, True)
    for corner in range(1, 5):
        boxes_and_bad = torch.cat([boxes, boxes[:1]])
        boxes_and_bad[-1, corner] = bad if corner > 2 else -bad
        if bad == 3e38:
            boxes_and_bad[-1, (corner + 1) % 4 + 1] = -bad
        out = roi_align(x, boxes_and_bad, *args)
        assert torch.equal(out[:-1], roi_align(x, boxes, *args))
        assert not out[-1].any()
        g = gradient(lambda x, b=boxes_and_bad: roi_align(x, b, *args)[:-1], x)
        assert torch.equal(g, gradient(lambda x: roi_align(x, boxes, *args), x))


@pytest.mark.parametrize("side", [1e4, 1e5, 1e6, 1e9, 1e30])
def test_work_and_memory_do_not_grow_with_a_box(side):
    x = torch.ones(1, 64, 50, 60)
    out = roi_align(x, torch.tensor([[0, 0, 0, side, side], [0, -side, -side, side, side]]), 14)
    assert out.isfinite().all()
    if side <= 1e6:  # the first bin covers the whole map, the others none of it
        expected = (60 / (side / 14)) * (50 / (side / 14))
        assert out[0, 0, 0, 0].item() == pytest.approx(expected, rel=0.05)
    assert not out[0, 0, 1:, 1:].any()


def test_nan_in_the_map_stays_where_it_is():
    x = torch.zeros(1, 3, 32, 32)
    x[:, :, 16, 16] = float("nan")
    box = torch.tensor([[0.0, 0, 0, 32, 32]])
    for layout in LAYOUTS:
        out = roi_align(x.contiguous(memory_format=layout), box, 16, sampling_ratio=2, aligned=True)
        where = out[0, 0].isnan().nonzero()
        assert where.min() >= 7
        assert where.max() <= 8


@pytest.mark.cpu_only
def test_same_bits_for_any_number_of_threads():
    threads = torch.get_num_threads()
    for layout in LAYOUTS:
        x, *args = inputs(2, 96, 20, 30, 40, (7, 7), 0.5, torch.float32)
        x = x.contiguous(memory_format=layout)
        results = []
        for n in (1, 2, 1):
            torch.set_num_threads(n)
            results.append((roi_align(x, *args), gradient(roi_align, x, *args)))
        torch.set_num_threads(threads)
        for out, grad in results[1:]:
            assert torch.equal(out, results[0][0])
            assert torch.equal(grad, results[0][1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck(layout):
    x, *args = inputs(2, 3, 5, 6, 4, (2, 3), 0.5)
    x = x.contiguous(memory_format=layout).requires_grad_()
    for options in ((-1, False), (2, True)):
        assert torch.autograd.gradcheck(lambda x, o=options: roi_align(x, *args, *o), (x,))
        assert torch.autograd.gradgradcheck(lambda x, o=options: roi_align(x, *args, *o), (x,))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_registration(layout):
    x, boxes, size, scale = inputs(*CASES[0])
    x = x.contiguous(memory_format=layout).requires_grad_()
    assert_op_is_registered(
        torch.ops.dynamask.roi_align.default, (x, boxes, list(size), scale, 2, True)
    )
    grad = torch.randn(6, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    last = layout == torch.channels_last
    assert_op_is_registered(
        torch.ops.dynamask.roi_align_backward.default,
        (grad, boxes, [2, 5, 10, 13], scale, 2, True, last, False),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiles_without_a_graph_break(layout):
    compiled = torch.compile(roi_align, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, k in ((2, 5), (3, 8)):
        x, *args = inputs(n, 4, 6 + n, 7, k, (2, 3), 0.5)
        x = x.contiguous(memory_format=layout)
        torch.testing.assert_close(compiled(x, *args), roi_align(x, *args))
        torch.testing.assert_close(gradient(compiled, x, *args), gradient(roi_align, x, *args))


X, B = torch.rand(2, 3, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 1, 5, 5]])


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((X[0], B, 2), ValueError, r"expected input \[N, C, H, W\], got \[3, 8, 8\]"),
        ((X.int(), B, 2), TypeError, "expected input of a floating dtype, got torch.int32"),
        ((X, B[:, 1:], 2), ValueError, r"expected boxes \[K, 5\], got \[2, 4\]"),
        ((X, B.long(), 2), TypeError, "expected boxes of a floating dtype, got torch.int64"),
        ((X, [B[:, 1:]], 2), ValueError, "expected boxes for 2 images, got a list of 1"),
        ((X, [B[:, 1:], B], 2), ValueError, r"expected boxes\[1\] \[L, 4\], got \[2, 5\]"),
        ((X, B + 1, 2), ValueError, r"batch index of boxes in \[0, 2\), got 2.0 in row 1"),
        ((X, B - 1, 2), ValueError, r"batch index of boxes in \[0, 2\), got -1.0 in row 0"),
        ((X, B * float("nan"), 2), ValueError, r"batch index of boxes .* got nan in row 0"),
        ((X, B, 0), ValueError, r"output_size of one or two numbers >= 1, got \[0, 0\]"),
        ((X, B, (1, 2, 3)), ValueError, r"output_size of one or two numbers >= 1, got \[1, 2, 3\]"),
    ],
)
def test_says_what_is_wrong(args, error, message):
    with pytest.raises(error, match=f"roi_align: .*{message}"):
        roi_align(*args)


def test_a_kernel_called_directly_stays_inside():
    bad = torch.tensor([[7.0, 0, 0, 4, 4], [-1e6, 1, 1, 5, 5]])
    for layout in LAYOUTS:
        x = torch.rand(2, 3, 8, 8).contiguous(memory_format=layout)
        assert not torch.ops.dynamask.roi_align(x, bad, [2, 2], 1.0, 2, False).any()
        grad = torch.ones(2, 3, 2, 2)
        args = (grad, bad, x.shape, 1.0, 2, False, layout == torch.channels_last, False)
        assert not torch.ops.dynamask.roi_align_backward(*args).any()
