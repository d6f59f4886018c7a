import pytest
import torch
import torch.nn.functional as F

from dynamask.ops import DeformConv2d, deform_conv2d
from dynamask.reference.deform_conv2d import deform_conv2d as reference
from dynamask.testing import assert_as_accurate, assert_op_is_registered

NAMES = ("input", "offset", "weight", "bias", "mask")
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]

CASES = {
    # n, c, h, w, out, kernel, groups, offset groups, masked, stride, padding, dilation
    "3x3": (2, 16, 9, 10, 32, (3, 3), 1, 1, False, 1, 1, 1),
    "masked": (2, 16, 6, 5, 8, (3, 3), 1, 1, True, 1, 1, 1),
    "offset groups": (1, 12, 7, 7, 5, (3, 3), 1, 4, True, 1, 1, 1),
    "weight groups": (2, 12, 7, 6, 9, (3, 3), 3, 2, True, 1, 1, 1),
    "depthwise": (1, 6, 5, 5, 6, (3, 3), 6, 3, False, 1, 1, 1),
    "rectangle": (2, 3, 12, 9, 4, (2, 5), 1, 1, True, (2, 1), (0, 3), (3, 2)),
    "1x1": (3, 17, 4, 4, 35, (1, 1), 1, 1, True, 1, 0, 1),
    "one over a tile": (1, 5, 97, 1, 3, (3, 1), 1, 1, False, 1, (1, 0), 1),
    "many channels": (1, 300, 3, 3, 33, (1, 2), 1, 2, True, 1, 0, 1),
    "many images": (9, 5, 4, 6, 7, (3, 3), 1, 1, True, 1, 1, 1),
    "no image": (0, 4, 5, 5, 6, (3, 3), 1, 1, True, 1, 1, 1),
    "no channel": (2, 0, 5, 5, 6, (3, 3), 1, 1, False, 1, 1, 1),
    "no output channel": (2, 4, 5, 5, 0, (3, 3), 1, 1, False, 1, 1, 1),
    "no pixel": (1, 4, 0, 2, 6, (1, 1), 1, 1, False, 1, 1, 1),
}


def inputs(case, dtype=torch.float64):
    """The five tensors and the three numbers of a case; offsets reach beyond the image."""
    n, c, h, w, out, kernel, groups, offset_groups, masked, stride, padding, dilation = CASES[case]
    numbers = {"stride": stride, "padding": padding, "dilation": dilation}
    pairs = [(x, x) if isinstance(x, int) else x for x in numbers.values()]
    size = [
        (length + 2 * pad - spread * (k - 1) - 1) // step + 1
        for length, k, step, pad, spread in zip((h, w), kernel, *pairs)
    ]
    planes = offset_groups * kernel[0] * kernel[1]
    tensors = (
        torch.randn(n, c, h, w, dtype=dtype),
        torch.randn(n, 2 * planes, *size, dtype=dtype) * 1.5,
        torch.randn(out, c // groups, *kernel, dtype=dtype),
        torch.randn(out, dtype=dtype),
        torch.rand(n, planes, *size, dtype=dtype) if masked else None,
    )
    return tensors, numbers


def run(op, tensors, numbers):
    input, offset, weight, bias, mask = tensors
    return op(input, offset, weight, bias, **numbers, mask=mask)


def some_gradient(out):
    return torch.linspace(1, 99, out.numel(), dtype=torch.float64).sin().view(out.shape)


def gradients(op, tensors, numbers, grad=None):
    """The output, and the gradients of the tensors for `grad` (default: a fixed one)."""
    leaves = [None if x is None else x.detach().requires_grad_() for x in tensors]
    out = run(op, leaves, numbers)
    if grad is None:
        grad = some_gradient(out)
    wanted = [x for x in leaves if x is not None]
    return out, torch.autograd.grad(out, wanted, grad.to(out.dtype), allow_unused=True)


def test_by_hand():
    image = torch.tensor([[[[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]]])
    weight = torch.tensor([[[[2.0]]]])
    # each pixel looks (dy, dx) away: between pixels, off the edge, far off, half off the edge
    dy = torch.tensor([[0.5, 0.0, -1.0], [0.0, 9.0, 0.5]])
    dx = torch.tensor([[0.5, 0.25, 0.0], [-1.0, 0.0, 0.0]])
    out = deform_conv2d(image, torch.stack((dy, dx))[None], weight, torch.tensor([1.0]))
    expected = [[2 * 5.5 + 1, 2 * 1.25 + 1, 1.0], [1.0, 1.0, 2 * 6.0 + 1]]
    assert out[0, 0].tolist() == expected


def test_dy_comes_before_dx_tap_by_tap():
    image = torch.arange(25.0).view(1, 1, 5, 5)
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 2] = 1  # tap 5, to the right of the centre
    offset = torch.zeros(1, 18, 3, 3)
    offset[:, 2 * 5] = 1
    down = deform_conv2d(image, offset, weight)
    assert torch.equal(down[0, 0], image[0, 0, 2:5, 2:5])
    offset.zero_()[:, 2 * 5 + 1] = -1
    left = deform_conv2d(image, offset, weight)
    assert torch.equal(left[0, 0], image[0, 0, 1:4, 1:4])


@pytest.mark.parametrize("groups", [1, 2])
def test_without_offsets_it_is_a_convolution(groups):
    input, weight = torch.randn(2, 8, 11, 9).double(), torch.randn(6, 8 // groups, 3, 3).double()
    numbers = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
    expected = F.conv2d(input, weight, groups=groups, **numbers)
    offset = input.new_zeros(2, 2 * 18, *expected.shape[2:])
    torch.testing.assert_close(deform_conv2d(input, offset, weight, **numbers), expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_matches_reference(case, dtype, layout):
    tensors, numbers = inputs(case, dtype)
    exact, exact_grads = gradients(
        reference, [x if x is None else x.double() for x in tensors], numbers
    )
    plain, plain_grads = gradients(reference, tensors, numbers)
    laid_out = [
        x.contiguous(memory_format=layout) if x is not None and x.dim() == 4 else x for x in tensors
    ]
    out, grads = gradients(deform_conv2d, laid_out, numbers)
    assert_as_accurate(out, exact, plain)
    names = [name for name, x in zip(NAMES, tensors) if x is not None]
    for name, actual, wanted, same in zip(names, grads, exact_grads, plain_grads):
        assert_as_accurate(actual, wanted, same, f"gradient of {name}")


@pytest.mark.parametrize("case", [x for x in CASES if not x.startswith("no ")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_torchvision(case, dtype):
    tensors, numbers = inputs(case, dtype)
    if case != "masked":  # whole offsets: the kinks of the interpolation, where slopes are a choice
        tensors = (tensors[0], tensors[1].round(), *tensors[2:])
    ops = pytest.importorskip("torchvision").ops
    theirs, their_grads = gradients(ops.deform_conv2d, tensors, numbers)
    ours, our_grads = gradients(deform_conv2d, tensors, numbers)
    for actual, expected in zip((ours, *our_grads), (theirs, *their_grads)):
        scale = expected.abs().max().item()
        tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype] * scale
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("n", [0, 1, 97])
def test_any_number_of_images(n):
    input, weight = torch.randn(n, 4, 5, 5), torch.randn(8, 4, 3, 3)
    offset = torch.randn(n, 18, 5, 5)
    out = deform_conv2d(input, offset, weight, padding=1)
    ops = pytest.importorskip("torchvision").ops
    torch.testing.assert_close(out, ops.deform_conv2d(input, offset, weight, padding=1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keeps_the_layout(layout):
    (input, offset, weight, bias, mask), numbers = inputs("masked", torch.float32)
    leaf = input.contiguous(memory_format=layout).requires_grad_()
    out = run(deform_conv2d, (leaf, offset, weight, bias, mask), numbers)
    out.sum().backward()
    assert out.is_contiguous(memory_format=layout)
    assert leaf.grad.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_may_be_changed_in_place(layout):
    (input, *rest), numbers = inputs("masked", torch.float32)
    leaf = input.contiguous(memory_format=layout).requires_grad_()
    out = run(deform_conv2d, (leaf, *rest), numbers)
    expected = torch.autograd.grad(F.relu(out).sum(), leaf, retain_graph=True)[0]
    assert not out._is_view()
    assert torch.equal(torch.autograd.grad(out.relu_().sum(), leaf)[0], expected)


def test_any_strides():
    (_, offset, weight, bias, mask), numbers = inputs("masked")
    big = torch.randn(4, 16, 12, 10).double()
    sparse = [
        big[::2, :, ::2, ::2],
        offset.repeat(1, 1, 1, 2)[..., 1::2],
        weight,
        bias,
        mask.mT.contiguous().mT,
    ]
    out, grads = gradients(deform_conv2d, sparse, numbers)
    expected, expected_grads = gradients(reference, sparse, numbers)
    torch.testing.assert_close((out, *grads), (expected, *expected_grads))


@pytest.mark.parametrize("feature", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("geometry", [torch.float32, torch.float64])
def test_dtypes_may_meet(feature, geometry):
    """Offsets keep their precision however coarse the features: here of 1/1024 at column 300."""
    input = torch.zeros(1, 1, 1, 400, dtype=feature)
    input[..., 301] = 1
    offset = torch.zeros(1, 2, 1, 400, dtype=geometry)
    offset[0, 1, 0, 300] = 1 / 1024
    weight = torch.ones(1, 1, 1, 1, dtype=torch.float32).requires_grad_()
    out = deform_conv2d(input, offset.requires_grad_(), weight)
    assert out.dtype == feature
    assert out[0, 0, 0, 300] == 1 / 1024
    out[0, 0, 0, 300].backward()
    assert offset.grad.dtype == geometry
    assert offset.grad[0, 1, 0, 300] == 1
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("feature", DTYPES)
@pytest.mark.parametrize("geometry", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_narrow_geometry_as_if_it_were_wide(feature, geometry, layout):
    (input, offset, weight, bias, mask), numbers = inputs("weight groups", torch.float32)
    offset, mask = (x.to(geometry).contiguous(memory_format=layout) for x in (offset, mask))
    features = [x.to(feature) for x in (input, weight, bias)]
    narrow = gradients(deform_conv2d, (features[0], offset, *features[1:], mask), numbers)
    wide = gradients(
        deform_conv2d, (features[0], offset.double(), *features[1:], mask.double()), numbers
    )
    assert torch.equal(narrow[0], wide[0])
    for a, b in zip(narrow[1], wide[1]):
        assert torch.equal(a, b.to(a.dtype))


def test_runs_under_autocast_in_the_dtype_of_the_input():
    input, offset_layer = torch.randn(1, 4, 5, 5), torch.nn.Conv2d(4, 18, 3, padding=1)
    layer = DeformConv2d(4, 6, 3, padding=1)
    with torch.autocast(input.device.type, dtype=torch.bfloat16):
        offset = offset_layer(input)
        assert offset.dtype == torch.bfloat16
        assert layer(input, offset).dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_where_an_offset_is_no_place_the_tap_is_zero(bad):
    tensors, numbers = inputs("masked")
    spoilt, gone = tensors[1].clone(), tensors[1].clone()
    spoilt[0, 7, 2, 3] = bad  # x of tap 3
    spoilt[1, 4] = bad  # y of tap 2, in all of an image
    gone[0, 7, 2, 3] = gone[1, 4] = 100
    out, grads = gradients(deform_conv2d, (tensors[0], spoilt, *tensors[2:]), numbers)
    expected, expected_grads = gradients(deform_conv2d, (tensors[0], gone, *tensors[2:]), numbers)
    for actual, wanted in zip((out, *grads), (expected, *expected_grads)):
        assert torch.equal(actual, wanted)
    assert not grads[1][1, 4:6].any()


def test_a_tap_outside_is_zero_though_the_image_be_infinite():
    input = torch.full((1, 17, 4, 4), float("inf"))
    offset = torch.full((1, 18, 4, 4), -50.0)
    assert not deform_conv2d(input, offset, torch.ones(3, 17, 3, 3), padding=1).any()


@pytest.mark.parametrize("case", ["masked", "weight groups"])
def test_only_the_gradients_asked_for(case):
    tensors, numbers = inputs(case)
    everything = gradients(deform_conv2d, tensors, numbers)[1]
    for i, tensor in enumerate(tensors):
        leaf = tensor.detach().requires_grad_()
        out = run(deform_conv2d, (*tensors[:i], leaf, *tensors[i + 1 :]), numbers)
        grad = some_gradient(out)
        assert torch.equal(torch.autograd.grad(out, leaf, grad)[0], everything[i])


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    "case", ["3x3", "weight groups", "many channels", "one over a tile", "many images"]
)
def test_bits_do_not_depend_on_the_number_of_threads(case):
    tensors, numbers = inputs(case, torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            out, grads = gradients(deform_conv2d, tensors, numbers)
            results.append((out, *grads))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("masked", [True, False])
def test_gradcheck(masked):
    tensors = [
        torch.randn(2, 4, 4, 3), torch.rand(2, 16, 3, 2) + 0.1, torch.randn(6, 2, 2, 2),
        torch.randn(6), torch.rand(2, 8, 3, 2) if masked else None,
    ]  # fmt: skip
    tensors = [x if x is None else x.double().requires_grad_() for x in tensors]
    assert torch.autograd.gradcheck(lambda *args: run(deform_conv2d, args, {}), tensors)


@pytest.mark.parametrize(("case", "layout"), list(zip(["masked", "3x3"], LAYOUTS)))
def test_registration(case, layout):
    (input, offset, weight, bias, mask), numbers = inputs(case, torch.float32)
    input = input.contiguous(memory_format=layout)
    pairs = [[x, x] for x in numbers.values()]
    leaves = [x if x is None else x.requires_grad_() for x in (input, offset, weight, bias, mask)]
    assert_op_is_registered(
        torch.ops.dynamask.deform_conv2d.default, (*leaves[:4], *pairs, leaves[4])
    )
    detached = [x if x is None else x.detach() for x in leaves]
    out = torch.ops.dynamask.deform_conv2d(*detached[:4], *pairs, detached[4])
    for needs in ([True] * 4, [False, True, True, False]):
        args = (out, *detached[:3], detached[4], *pairs, *needs, True)
        assert_op_is_registered(torch.ops.dynamask.deform_conv2d_backward.default, args)


def test_compiles_without_a_graph_break():
    layer = DeformConv2d(4, 6, 3, padding=1)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, size in ((2, 5), (3, 7)):
        args = torch.randn(n, 4, size, size), torch.randn(n, 18, size, size)
        torch.testing.assert_close(compiled(*args), layer(*args))


def test_module_is_torchvisions():
    ours = DeformConv2d(4, 6, (3, 5), stride=2, padding=(1, 2), dilation=1, groups=2)
    ops = pytest.importorskip("torchvision").ops
    theirs = ops.DeformConv2d(4, 6, (3, 5), stride=2, padding=(1, 2), groups=2)
    theirs.load_state_dict(ours.state_dict())
    args = torch.randn(1, 4, 9, 9), torch.randn(1, 30, 5, 5), torch.rand(1, 15, 5, 5)
    torch.testing.assert_close(ours(*args), theirs(*args))
    assert DeformConv2d(4, 6, 3, bias=False).bias is None
    with pytest.raises(ValueError, match="expected in_channels divisible by groups 3, got 4"):
        DeformConv2d(4, 6, 3, groups=3)


X, D, W, B, M = (
    torch.rand(s) for s in ((2, 4, 5, 5), (2, 18, 3, 3), (6, 4, 3, 3), (6,), (2, 9, 3, 3))
)


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("args", "numbers", "error", "message"),
    [
        ((X[0], D, W), {}, ValueError, r"expected input \[N, C, H, W\], got \[4, 5, 5\]"),
        ((X, D[0], W), {}, ValueError, r"expected offset \[N, 2\*G\*kH\*kW, Ho, Wo\], got \[18, 3"),
        ((X, D, W[0]), {}, ValueError, r"expected weight \[O, C/groups, kH, kW\], got \[4, 3, 3\]"),
        ((X.int(), D, W), {}, TypeError, "expected input of a floating dtype, got torch.int32"),
        ((X, D.long(), W), {}, TypeError, "expected offset of a floating dtype, got torch.int64"),
        ((X, D, W), {"mask": M.bool()}, TypeError, "expected mask of a floating dtype, got"),
        ((X, D, W.to("meta")), {}, ValueError, "expected weight on cpu, got meta"),
        ((X, D, W), {"stride": 0}, ValueError, r"expected stride >= 1, got \(0, 0\)"),
        ((X, D, W), {"stride": (1, -1)}, ValueError, r"expected stride >= 1, got \(1, -1\)"),
        ((X, D, W), {"dilation": 0}, ValueError, r"expected dilation >= 1, got \(0, 0\)"),
        ((X, D, W), {"padding": -1}, ValueError, r"expected padding >= 0, got \(-1, -1\)"),
        ((X, D, W), {"stride": (1, 1, 1)}, ValueError, "expected stride of one or two numbers"),
        ((X, D, W[:, :, :0]), {}, ValueError, r"expected a kernel of at least 1 x 1, got \[0, 3\]"),
        ((X[:, :3], D, W), {}, ValueError, "of input to be a multiple of those of weight 4, got 3"),
        ((X, D, W[:, :0]), {}, ValueError, "of input to be a multiple of those of weight 0, got 4"),
        ((X, D, W[:5, :2]), {}, ValueError, "out channels divisible by the 2 weight groups, got 5"),
        ((X, D[:, :16], W), {}, ValueError, "multiple of 2 . kH . kW = 18, got 16"),
        ((X, D[:, :0], W), {}, ValueError, "multiple of 2 . kH . kW = 18, got 0"),
        ((X, D.repeat(1, 3, 1, 1), W), {}, ValueError, "by the 3 offset groups, got 4"),
        ((X, D, W, B[:5]), {}, ValueError, "expected values in bias 6, got 5"),
        ((X, D, W, B[None]), {}, ValueError, r"expected bias \[O\], got \[1, 6\]"),
        ((X[:, :, :2], D, W), {}, ValueError, "holds one window of the kernel, got an output of"),
        ((X, D[:1], W), {}, ValueError, r"expected offset \[2, 18, 3, 3\], got \[1, 18, 3, 3\]"),
        ((X, D, W), {"padding": 1}, ValueError, r"expected offset \[2, 18, 5, 5\], got \[2, 18, 3"),
        ((X, D, W), {"mask": M[:, :8]}, ValueError, r"expected mask \[2, 9, 3, 3\], got \[2, 8, 3"),
        ((X, D, W), {"mask": M[..., :2]}, ValueError, r"expected mask \[2, 9, 3, 3\], got"),
    ],
)  # fmt: skip
def test_says_what_is_wrong(args, numbers, error, message):
    with pytest.raises(error, match=f"deform_conv2d: .*{message}"):
        deform_conv2d(*args, **numbers)
