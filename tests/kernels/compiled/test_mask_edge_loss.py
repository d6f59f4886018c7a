import pytest

from .conftest import CAPABILITIES

kernels = pytest.importorskip("dynamask.kernels.mask_edge_loss")

BLOCK = kernels.MAX_BLOCK
WARPS = kernels._warps(BLOCK)


def plane(name, dtype, targets, one_class, rows):
    """Signature, constants and multiples of 16 of the logits [N, 28, 28] or [N, 80, 28, 28]."""
    pointers = {"logits": dtype, "targets": targets, "losses": "fp32", "errors": dtype}
    signature = {f"{name}_{which}": f"*{kind}" for which, kind in pointers.items()}
    signature |= {f"{name}_{which}": "i32" for which in ("classes", "pixels", "width")}
    signature |= {f"{name}_stride_{axis}": "i32" for axis in "nkyx"}
    constants = {f"{name}_classes": 1} if one_class else {}
    if not rows:
        constants[f"{name}_stride_x"] = 1
    even = [*pointers, "pixels", "stride_n", *([] if rows else ["stride_k"])]
    even += ["stride_x"] if rows else []
    return signature, constants, [f"{name}_{which}" for which in even]


@pytest.mark.parametrize(
    ("classes", "rows", "dtype", "capability"),
    [
        *((1, False, "bf16", capability) for capability in CAPABILITIES),
        (80, False, "fp32", 90),
        (80, True, "fp16", 90),
    ],
)
def test_forward(compiled, classes, rows, dtype, capability):
    masks = plane("mask", dtype, "u8", classes == 1, rows)
    edges = plane("edge", dtype, dtype, classes == 1, rows)
    found = compiled(
        kernels.mask_edge_loss_kernel,
        {"labels": "*i64"} | masks[0] | edges[0],
        {
            **{**masks[1], **edges[1]},
            **{"MASK_HAS_CLASSES": classes > 1, "EDGE_HAS_CLASSES": classes > 1},
            **{"MASK_EVEN": True, "EDGE_EVEN": True, "NEEDS_MASK": True, "NEEDS_EDGE": True},
            "BLOCK": BLOCK,
        },
        capability,
        divisible=["labels", *masks[2], *edges[2]],
        num_warps=WARPS,
    )
    assert found.spilled == 0
    assert found.registers <= 64
    assert found.shared <= 8192
    assert found.wide_loads > 0 or rows


def test_forward_with_uneven_rows(compiled):
    masks, edges = (plane(name, "fp32", "u8", False, True) for name in ("mask", "edge"))
    flags = ("MASK_HAS_CLASSES", "EDGE_HAS_CLASSES", "NEEDS_MASK", "NEEDS_EDGE")
    constants = {**dict.fromkeys(flags, True), "MASK_EVEN": False, "EDGE_EVEN": False}
    found = compiled(
        kernels.mask_edge_loss_kernel,
        {"labels": "*i64"} | masks[0] | edges[0],
        {**constants, "BLOCK": BLOCK},
        90,
        num_warps=WARPS,
    )
    assert found.spilled == 0
    assert found.registers <= 64


@pytest.mark.parametrize(
    ("classes", "dtype", "capability"),
    [*((1, "bf16", capability) for capability in CAPABILITIES), (80, "fp32", 90)],
)
def test_backward(compiled, classes, dtype, capability):
    pointers = {"grad": "*fp32", "errors": f"*{dtype}", "labels": "*i64", "out": f"*{dtype}"}
    numbers = dict.fromkeys(("grad_stride", "classes", "pixels", "size"), "i32")
    constants = {"grad_stride": 1, "HAS_CLASSES": classes > 1, "BLOCK": BLOCK}
    found = compiled(
        kernels.mask_edge_loss_backward_kernel,
        pointers | numbers,
        constants | ({"classes": 1} if classes == 1 else {}),
        capability,
        divisible=["errors", "out", "pixels", "size"],
        num_warps=WARPS,
    )
    assert found.spilled == 0
    assert found.registers <= 32
    assert found.wide_loads > 0
