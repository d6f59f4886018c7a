import pytest

from .conftest import CAPABILITIES

kernels = pytest.importorskip("dynamask.kernels.grouped_mask_head")

SHAPES = ((256, 14**2, 80), (128, 28**2, 80), (64, 56**2, 80), (32, 112**2, 1))


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    ("dtype", "rows"),
    [("fp32", True), ("bf16", True), ("bf16", False)],
    ids=["fp32 channels_last", "bf16 channels_last", "bf16 NCHW"],
)
def test_resources(compiled, dtype, rows, capability):
    lists = ("features", "weights", "biases")
    signature = dict.fromkeys(lists, (f"*{dtype}",) * len(SHAPES))
    signature |= dict.fromkeys(("labels", "state", "order", "mask_offsets"), "*i64")
    signature |= {"values": f"*{dtype}", "rois": "i32", "numel": "i32"}
    constants = {
        "SHAPES": SHAPES,
        "BLOCKS": tuple(kernels.blocks_of(channels) for channels, _, _ in SHAPES),
        "ROWS": rows,
    }
    found = compiled(
        kernels.grouped_mask_head_kernel,
        signature,
        constants,
        capability,
        divisible=("features", "weights", "values"),
    )
    assert found.spilled == 0
    assert found.registers <= 72
    assert found.wide_loads > 0
