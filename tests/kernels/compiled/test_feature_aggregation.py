import pytest
import torch

kernels = pytest.importorskip("dynamask.kernels.feature_aggregation")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CASES = (  # channels that come in, of which half go out
    *((channels, "bf16", 90) for channels in (256, 128, 64)),
    *((256, dtype, 80) for dtype in DTYPES),
    *((256, dtype, 100) for dtype in DTYPES),
    (256, "fp32", 90),
)
FEW = 128  # registers: 16 warps at a time on each multiprocessor


def options_of(sizes):
    constants = {name: sizes[name] for name in ("PIXELS", "CHANNELS", "OUTS")}
    options = {name: sizes[name] for name in ("num_warps", "num_stages")}
    return {**constants, "PRECISION": "ieee", "INTERPRETED": False}, options


def conv2d(compiled, dtype, capability, side, channels, outs, to_offsets, fixed=()):
    constants, options = options_of(kernels.conv2d_sizes(DTYPES[dtype], side, channels, outs))
    constants |= {"SIDE": side, "RELU": not to_offsets, "PLANES": to_offsets}
    signature = dict.fromkeys(("x", "weight", "bias", "out"), f"*{dtype}")
    signature |= dict.fromkeys(("rois", "height", "width", "channels", "outs"), "i32")
    signature |= {"count": "*i64"} | ({"out": "*fp32"} if to_offsets else {})
    divisible = ("x", "weight", "bias", "out", "channels") + (() if to_offsets else ("outs",))
    kernel = kernels.conv2d_kernel
    divisible = [name for name in divisible if name not in fixed]
    return compiled(kernel, signature, constants | dict(fixed), capability, divisible, **options)


def pair(compiled, dtype, capability, channels, fixed=()):
    constants, options = options_of(kernels.pair_sizes(DTYPES[dtype], channels))
    signature = dict.fromkeys(kernels.pair_kernel.arg_names, "i32")
    pointers = ("low", "level", "weight", "bias", "pair")
    signature |= dict.fromkeys(pointers, f"*{dtype}")
    signature |= {"boxes": "*fp32", "count": "*i64", "scale": "fp32"}
    divisible = (*pointers, "boxes", "channels")
    kernel = kernels.pair_kernel
    divisible = [name for name in divisible if name not in fixed]
    return compiled(kernel, signature, constants | dict(fixed), capability, divisible, **options)


@pytest.mark.parametrize(("channels", "dtype", "capability"), CASES)
def test_resources(compiled, channels, dtype, capability):
    out, offsets = channels // 2, 18 * (channels // 64)
    target = (compiled, dtype, capability)
    found = {
        "reduce": conv2d(*target, 1, channels, out, to_offsets=False),
        "pair": pair(*target, out),
        "offset1": conv2d(*target, 3, channels, offsets, to_offsets=True),
        "offset2": conv2d(*target, 1, out, offsets, to_offsets=True),
    }
    for name, resources in found.items():
        assert resources.spilled == 0, name
        assert resources.registers <= (FEW if dtype == "bf16" and capability > 80 else 255), name
        assert resources.shared <= 96 * 1024, name
        assert resources.mma > 0 or dtype == "fp32", name
    assert found["pair"].wide_loads >= 8
    assert found["offset1"].wide_loads >= 2


@pytest.mark.parametrize("side", [1, 3])
def test_sizes_of_one_and_no_count(compiled, side):
    """Triton makes constants of channels of 1 and of None; the interpreter does not."""
    ones = {"count": None, "channels": 1}
    found = [conv2d(compiled, "bf16", 90, side, 1, 1, side == 3, {**ones, "outs": 1})]
    found.append(pair(compiled, "bf16", 90, 1, ones))
    assert all(resources.spilled == 0 for resources in found)
