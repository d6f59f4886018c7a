import pytest
import torch

from .conftest import CAPABILITIES

kernels = pytest.importorskip("dynamask.kernels.deform_conv2d")
backward = pytest.importorskip("dynamask.kernels.deform_conv2d_backward")

STAGES = (256, 128, 64, 32)  # channels of the mask branch at 14, 28, 56 and 112 pixels
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# of what is none: the mask, the residual and the count
ABSENT = ("mask", "residual", "count")
ABSENT_STRIDES = tuple(
    f"{x}_{y}" for x in ABSENT[:2] for y in ("image", "channel", "plane", "pixel")
)
ONES = ("out_channel", "offset_pixel", "stride_y", "stride_x", "padding_y", "padding_x")
DIVISIBLE = (
    *("input", "offset", "weight", "bias", "out", "out_channels"),
    *("input_image", "out_image", "out_pixel"),
)


def arguments(dtype, channels):
    """Types of arguments, values of constants and options; the channels are innermost."""
    sizes = kernels.block_sizes(DTYPES[dtype], channels, channels)
    constants = {
        **{n: sizes[n] for n in ("PIXELS", "OUT", "CHANNELS")},
        **{"TAPS": 9, "KERNEL_WIDTH": 3, "RELU": False, "WIDE": False},
        **dict.fromkeys(("GROUP_CHANNELS", "SEGMENT", "OFFSET_CHANNELS", "INPUT_PIXEL"), channels),
        **{"PRECISION": "ieee", "INTERPRETED": False},
        **dict.fromkeys(ABSENT),
        **dict.fromkeys(ABSENT_STRIDES, 0),
        **dict.fromkeys((*ONES, "dilation_y", "dilation_x"), 1),
    }
    names = kernels.deform_conv2d_kernel.arg_names
    constants = {n: x for n, x in constants.items() if n in names}
    signature = {n: "i32" for n in names if n not in constants}
    signature |= dict.fromkeys(("input", "weight", "bias", "out"), f"*{dtype}")
    signature["offset"] = "*fp32"
    options = {n: x for n, x in sizes.items() if n not in constants}
    return signature, constants, options


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    ("channels", "dtype"), [*((c, "bf16") for c in STAGES), (256, "fp16"), (256, "fp32")]
)
def test_resources(compiled, channels, dtype, capability):
    signature, constants, options = arguments(dtype, channels)
    kernel = kernels.deform_conv2d_kernel
    found = compiled(kernel, signature, constants, capability, divisible=DIVISIBLE, **options)
    assert found.spilled == 0
    assert found.shared <= (163 if capability == 80 else 227) * 1024
    if capability == 90 and dtype != "fp32":  # room for eight warps or more of several programs
        assert 2 * found.registers * 32 * options["num_warps"] <= 65_536
    assert found.wide_loads >= 8
    assert found.mma > 0 or dtype == "fp32"


def test_planes_take_no_more_registers_than_rows(compiled):
    """The addresses of an output whose channels are outermost."""
    signature, constants, options = arguments("bf16", 256)
    del constants["out_channel"]
    constants["out_pixel"] = 1
    signature["out_channel"] = signature.pop("out_pixel")
    signature = {n: signature[n] for n in kernels.deform_conv2d_kernel.arg_names if n in signature}
    divisible = [n for n in DIVISIBLE if n in signature]
    kernel = kernels.deform_conv2d_kernel
    found = compiled(kernel, signature, constants, 90, divisible=divisible, **options)
    assert found.spilled == 0
    assert found.registers <= 128


CALLS = {
    # n, c, h, w, out, kernel, groups, offset groups
    "sizes of one": (1, 1, 1, 1, 1, (1, 1), 1, 1),
    "one row": (1, 16, 1, 7, 16, (1, 3), 1, 1),
    "groups across": (2, 12, 5, 4, 9, (3, 3), 3, 2),
    "depthwise": (2, 6, 5, 4, 6, (3, 3), 6, 1),
    "one column": (2, 16, 7, 1, 16, (3, 1), 1, 1),
    "no channel": (2, 0, 5, 4, 6, (3, 3), 1, 1),
}


@pytest.fixture
def allow_tf32():
    """In torch's newer words, after which it refuses to say so in the older."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    yield
    matmul.fp32_precision = before


@pytest.mark.parametrize(("case", "tf32"), [*((case, False) for case in CALLS), ("one row", True)])
def test_specialises(absent_gpu, allow_tf32, case, tf32):
    """Sizes of one are constants to the compiler, and tensors may be of several dtypes."""
    n, c, h, w, out, (kernel_height, kernel_width), groups, offset_groups = CALLS[case]
    features, geometry = (torch.float32,) * 2 if tf32 else (torch.float16, torch.bfloat16)
    planes = offset_groups * kernel_height * kernel_width
    input = torch.zeros(n, c, h, w, dtype=features)
    weight = torch.zeros(out, c // groups, kernel_height, kernel_width)
    offset = torch.zeros(n, 2 * planes, h, w, dtype=geometry)
    mask = torch.zeros(n, planes, h, w, dtype=geometry)
    numbers = [1, 1], [kernel_height // 2, kernel_width // 2], [1, 1]
    y = kernels.deform_conv2d(input, offset, weight, torch.zeros(out), *numbers, mask)
    backward.deform_conv2d_backward(
        y, input, offset, weight, mask, *numbers, True, True, True, True, tf32
    )
    assert len(absent_gpu.launches) == (3 if c > 0 else 1)


def test_one_build_for_any_number_and_size_of_images(absent_gpu):
    weight, numbers = torch.zeros(16, 16, 3, 3), ([1, 1], [1, 1], [1, 1])
    for n, side in ((2, 7), (16, 8), (1, 16)):
        input = torch.zeros(n, 16, side, side).contiguous(memory_format=torch.channels_last)
        offset = torch.zeros(n, 18, side, side)
        y = kernels.deform_conv2d(input, offset, weight, None, *numbers, None)
        backward.deform_conv2d_backward(
            y, input, offset, weight, None, *numbers, True, True, True, False, False
        )
    assert len(absent_gpu.launches) == 9
    assert len(absent_gpu.binaries) == 3


@pytest.mark.parametrize("width", [8193, 1])
def test_an_image_of_more_than_2_31_numbers(absent_gpu, width):
    """Strides of more than 32 bits, and a width that is a constant."""
    input = torch.empty(2, 32, 2**26 // min(width, 2**13), width, device="meta").bfloat16()
    input = input.contiguous(memory_format=torch.channels_last)
    offset = torch.empty(2, 18, *input.shape[2:], device="meta")
    weight = torch.empty(16, 32, 3, 3, device="meta")
    numbers = [1, 1], [1, 1], [1, 1]
    y = kernels.deform_conv2d(input, offset, weight, None, *numbers, None)
    backward.deform_conv2d_backward(
        y, input, offset, weight, None, *numbers, True, True, True, False, False
    )
    assert len(absent_gpu.launches) == 3


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_images_of_more_than_32_bits(compiled, capability):
    signature, constants, options = arguments("bf16", 32)
    constants["WIDE"] = True
    kernel = kernels.deform_conv2d_kernel
    found = compiled(kernel, signature, constants, capability, divisible=DIVISIBLE, **options)
    assert found.spilled == 0
    assert found.wide_loads >= 8
