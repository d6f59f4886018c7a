import pytest

from .conftest import CAPABILITIES

kernels = pytest.importorskip("dynamask.kernels.class_logits")
tl = pytest.importorskip("triton.language")


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("rows", [True, False], ids=["channels_last", "NCHW"])
def test_resources(compiled, rows, dtype, capability):
    pointers = ("features", "weight", "bias")
    signature = dict.fromkeys(pointers, f"*{dtype}")
    signature |= {"labels": "*i64", "out": f"*{dtype}"}
    signature |= dict.fromkeys(("channels", "pixels", "classes"), "i32")
    constants = {
        "ROWS": rows,
        "HAS_BIAS": True,
        "SUM": tl.float32,
        "CHANNELS": kernels.CHANNELS,
        "PIXELS": kernels.PIXELS,
    }
    divisible = ("features", "weight", "out", "channels", "pixels")
    found = compiled(
        kernels.class_logits_kernel, signature, constants, capability, divisible=divisible
    )
    assert found.spilled == 0
    assert found.registers <= 96
    assert found.wide_loads > 0
