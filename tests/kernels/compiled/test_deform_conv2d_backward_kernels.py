import pytest

from .conftest import CAPABILITIES
from .test_deform_conv2d import DTYPES, STAGES

kernels = pytest.importorskip("dynamask.kernels.deform_conv2d_backward_kernels")

ONES = ("stride_y", "stride_x", "padding_y", "padding_x", "dilation_y", "dilation_x")
DIVISIBLE = (
    *("grad", "input", "offset", "weight", "grad_input", "grad_offset", "sums", "out_channels"),
    *("grad_image", "grad_pixel", "input_image", "grad_input_image"),
)
RUNS = [*((c, "bf16") for c in STAGES), (256, "fp32")]


def build(compiled, kernel, sizes, dtype, capability, types, absent, constants):
    """Compiles for tensors whose channels are innermost, and offsets whose pixels are."""
    names = kernel.arg_names
    strides = [f"{x}_{y}" for x in absent for y in ("image", "plane", "pixel")]
    constants = {
        **{n: x for n, x in sizes.items() if n in names},
        **{"TAPS": 9, "KERNEL_WIDTH": 3, "WIDE": False, "PRECISION": "ieee"},
        **{"INTERPRETED": False, "offset_pixel": 1, "grad_offset_pixel": 1},
        **dict.fromkeys(absent),
        **dict.fromkeys(strides, 0),
        **dict.fromkeys(ONES, 1),
        **constants,
    }
    constants = {n: x for n, x in constants.items() if n in names}
    features = dict.fromkeys(("grad", "input", "weight"), f"*{dtype}")
    types = {**features, "offset": "*fp32", "grad_offset": "*fp32", **types}
    signature = {n: types.get(n, "i32") for n in names if n not in constants}
    divisible = [n for n in DIVISIBLE if n in signature]
    options = {n: x for n, x in sizes.items() if n not in names}
    return compiled(kernel, signature, constants, capability, divisible=divisible, **options)


def of_channels(channels):
    names = "GROUP_CHANNELS", "SEGMENT", "OFFSET_CHANNELS", "INPUT_PIXEL", "SUM_PIXEL"
    return dict.fromkeys(names, channels)


def check(found, sizes, dtype, capability):
    assert found.spilled == 0
    assert found.registers <= (208 if sizes["num_warps"] == 8 else 240)
    assert found.shared <= (163 if capability == 80 else 227) * 1024
    assert found.wide_loads > 0
    assert found.mma > 0 or dtype == "fp32"


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("channels", "dtype"), RUNS)
def test_resources_of_the_data_kernel(compiled, channels, dtype, capability):
    sizes = kernels.data_block_sizes(DTYPES[dtype], channels, channels)
    kernel = kernels.deform_conv2d_backward_data_kernel
    absent = ("mask", "grad_mask", "per_unit")
    blocks = channels // sizes["OUT"]
    constants = {"OUT_BLOCKS": blocks, "RESIDENT": blocks == 1, **of_channels(channels)}
    types = {"grad_input": "*fp32"}
    check(
        build(compiled, kernel, sizes, dtype, capability, types, absent, constants),
        sizes,
        dtype,
        capability,
    )


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("channels", [256, 32])
def test_resources_with_sums_of_whole_numbers(compiled, channels, capability):
    sizes = kernels.data_block_sizes(DTYPES["bf16"], channels, channels)
    kernel = kernels.deform_conv2d_backward_data_kernel
    types = {"grad_input": "*i64", "per_unit": "*fp64"}
    constants = {"OUT_BLOCKS": 1, "RESIDENT": True, **of_channels(channels)}
    absent = ("mask", "grad_mask")
    found = build(compiled, kernel, sizes, "bf16", capability, types, absent, constants)
    check(found, sizes, "bf16", capability)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("channels", "dtype"), RUNS)
def test_resources_of_the_weight_kernel(compiled, channels, dtype, capability):
    sizes = kernels.weight_block_sizes(DTYPES[dtype], channels, channels)
    kernel = kernels.deform_conv2d_backward_weight_kernel
    types, constants = {"sums": "*fp32"}, {"groups": 1, **of_channels(channels)}
    check(
        build(compiled, kernel, sizes, dtype, capability, types, ("mask",), constants),
        sizes,
        dtype,
        capability,
    )
