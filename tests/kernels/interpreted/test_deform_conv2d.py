import pytest
import torch

from dynamask.reference.deform_conv2d import deform_conv2d as reference
from dynamask.testing import assert_as_accurate

triton = pytest.importorskip("triton")
kernels = pytest.importorskip("dynamask.kernels.deform_conv2d")

LAYOUTS = [torch.contiguous_format, torch.channels_last]
ONES = ([1, 1], [1, 1], [1, 1])  # stride, padding, dilation

CASES = {
    # n, c, h, w, out, kernel, groups, offset groups, masked, stride, padding, dilation
    "3x3": (2, 16, 6, 7, 32, (3, 3), 1, 1, False, *ONES),
    "masked": (2, 16, 6, 5, 8, (3, 3), 1, 1, True, *ONES),
    "offset groups": (1, 12, 5, 4, 5, (3, 3), 1, 4, True, *ONES),
    "weight groups": (2, 12, 3, 4, 9, (3, 3), 3, 2, True, *ONES),
    "depthwise": (1, 4, 5, 5, 4, (3, 3), 4, 2, False, *ONES),
    "rectangle": (2, 3, 12, 9, 4, (2, 5), 1, 1, True, [2, 1], [0, 3], [3, 2]),
    "1x1": (3, 17, 4, 4, 35, (1, 1), 1, 1, True, [1, 1], [0, 0], [1, 1]),
    "one over a tile": (1, 5, 129, 1, 3, (3, 1), 1, 1, False, [1, 1], [1, 0], [1, 1]),
    "many channels": (1, 150, 3, 3, 150, (1, 2), 1, 2, True, [1, 1], [0, 0], [1, 1]),
    "many images": (23, 5, 2, 3, 7, (3, 3), 1, 1, True, *ONES),
    "no image": (0, 4, 5, 5, 6, (3, 3), 1, 1, True, *ONES),
    "no channel": (2, 0, 5, 5, 6, (3, 3), 1, 1, False, *ONES),
    "no output channel": (2, 4, 5, 5, 0, (3, 3), 1, 1, False, *ONES),
    "no pixel": (1, 4, 0, 2, 6, (1, 1), 1, 1, False, [1, 1], [0, 0], [1, 1]),
}


def inputs(case, dtype=torch.float32):
    """The five tensors and the three numbers of a case; offsets reach beyond the image."""
    n, c, h, w, out, kernel, groups, offset_groups, masked, *numbers = CASES[case]
    size = [
        (length + 2 * pad - spread * (k - 1) - 1) // step + 1
        for length, k, step, pad, spread in zip((h, w), kernel, *numbers)
    ]
    planes = offset_groups * kernel[0] * kernel[1]
    tensors = (
        torch.randn(n, c, h, w).to(dtype),
        torch.randn(n, 2 * planes, *size) * 1.5,
        torch.randn(out, c // groups, *kernel).to(dtype),
        torch.randn(out).to(dtype),
        torch.rand(n, planes, *size) if masked else None,
    )
    return tensors, numbers


def run(op, tensors, numbers):
    *tensors, mask = tensors
    return op(*tensors, *numbers, mask)


def wide(tensors):
    return [x if x is None else x.double() for x in tensors]


def laid_out(tensors, layout):
    return [x if x is None or x.dim() < 4 else x.contiguous(memory_format=layout) for x in tensors]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", kernels.DTYPES, ids=str)
def test_matches_reference(case, dtype):
    tensors, numbers = inputs(case, dtype)
    exact, plain = run(reference, wide(tensors), numbers), run(reference, tensors, numbers)
    for layout in LAYOUTS:
        out = run(kernels.deform_conv2d, laid_out(tensors, layout), numbers)
        assert_as_accurate(out, exact, plain)
        assert case.startswith("no ") or out.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("geometry", [torch.bfloat16, torch.float16])
def test_reads_narrow_geometry_as_if_it_were_wide(geometry):
    (input, offset, weight, bias, mask), numbers = inputs("weight groups")
    offset, mask = offset.to(geometry), mask.to(geometry)
    narrow = run(kernels.deform_conv2d, (input, offset, weight, bias, mask), numbers)
    fp32 = (input, offset.float(), weight, bias, mask.float())
    assert torch.equal(narrow, run(kernels.deform_conv2d, fp32, numbers))


def test_any_strides():
    (_, offset, weight, bias, mask), numbers = inputs("masked")
    sparse = (
        torch.randn(4, 16, 12, 10)[::2, :, ::2, ::2],
        offset.repeat(1, 1, 1, 2)[..., 1::2],
        weight.mT.contiguous().mT,
        bias,
        mask.mT.contiguous().mT,
    )
    out = run(kernels.deform_conv2d, sparse, numbers)
    torch.testing.assert_close(out, run(reference, [x.contiguous() for x in sparse], numbers))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_where_an_offset_is_no_place_the_tap_is_zero(bad):
    tensors, numbers = inputs("masked")
    spoilt, gone = tensors[1].clone(), tensors[1].clone()
    spoilt[0, 7, 2, 3] = bad  # x of tap 3
    spoilt[1, 4] = bad  # y of tap 2, in all of an image
    gone[0, 7, 2, 3] = gone[1, 4] = 100
    out = run(kernels.deform_conv2d, (tensors[0], spoilt, *tensors[2:]), numbers)
    expected = run(kernels.deform_conv2d, (tensors[0], gone, *tensors[2:]), numbers)
    assert torch.equal(out, expected)


def test_a_tap_outside_is_zero_though_the_image_be_infinite():
    input, weight = torch.full((1, 17, 4, 4), float("inf")), torch.ones(3, 17, 3, 3)
    offset = torch.full((1, 18, 4, 4), -50.0)
    assert not kernels.deform_conv2d(input, offset, weight, None, *ONES, None).any()


@pytest.mark.parametrize("count", [None, 0, 1, 2, 9])
def test_slices_of_wider_tensors_and_all_that_may_follow(count):
    """Channels in the middle of wider pixels, an epilogue, and images that do not matter."""
    (input, offset, weight, bias, mask), numbers = inputs("masked")
    (n, _, *size), out_channels = input.shape, weight.shape[0]
    pixels = size[0] * size[1]
    buffer = torch.full((n, pixels, 50), 7.0)
    views = buffer[:, :, 3:19], buffer[:, :, 20:28], buffer[:, :, 30:38]
    into, residual, out = (x.transpose(1, 2) for x in views)
    into.copy_(input.flatten(2))
    residual.copy_(torch.randn(n, out_channels, pixels))
    before = buffer.clone()
    kernels.launch(
        into,
        size,
        offset.flatten(2),
        mask.flatten(2),
        kernels.pack_weight(weight, 1, torch.float32),
        3,
        out,
        size[1],
        *numbers,
        bias,
        True,
        residual,
        None if count is None else torch.tensor([count]),
    )
    expected = run(reference, (input, offset, weight, bias, mask), numbers).relu().flatten(2)
    images = n if count is None else min(n, count)
    torch.testing.assert_close(out[:images], (expected + residual)[:images])
    out[:images] = 7
    assert torch.equal(buffer, before)
