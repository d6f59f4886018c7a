import pytest
import torch

from .conftest import CAPABILITIES, resources_of

kernels = pytest.importorskip("dynamask.kernels.mask_edge_loss")

SIZES = (14, 28, 56, 112)


def found(gpu, folder):
    """What was started, and the resources of what was compiled for it."""
    (launch,) = gpu.launches
    (binary,) = gpu.binaries
    return launch, resources_of(binary.cubin, binary.shared, folder)


@pytest.mark.parametrize("absent_gpu", CAPABILITIES, indirect=True)
def test_all_sizes_of_the_model_in_one_launch(absent_gpu, tmp_path):
    logits = [torch.empty(3, s, s, dtype=torch.bfloat16) for s in SIZES]
    targets = [torch.empty(3, s, s, dtype=torch.uint8) for s in SIZES]
    kernels.mask_edge_loss(logits, targets, logits, targets, None, True, True)
    launch, resources = found(absent_gpu, tmp_path)
    assert launch.grid == (3, 8, 1)
    assert resources.spilled == 0
    assert resources.registers <= 64
    assert resources.wide_loads > 0


@pytest.mark.parametrize("absent_gpu", CAPABILITIES, indirect=True)
def test_gradients_of_all_sizes_in_one_launch(absent_gpu, tmp_path):
    errors = [torch.empty(3, s, s, dtype=torch.bfloat16) for s in SIZES]
    kernels.mask_edge_loss_backward(torch.empty(3, 4).unbind(1), errors, None, [0] * 4)
    launch, resources = found(absent_gpu, tmp_path)
    assert launch.grid == (3, 7, 4)
    assert resources.spilled == 0
    assert resources.registers <= 32
    assert resources.wide_loads > 0


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        (torch.float32, torch.contiguous_format),
        (torch.float16, torch.channels_last),
    ],
)
def test_logits_of_all_classes(absent_gpu, tmp_path, dtype, layout):
    logits = torch.empty(3, 80, 28, 28, dtype=dtype).contiguous(memory_format=layout)
    targets, labels = torch.empty(3, 28, 28, dtype=torch.bool), torch.empty(3, dtype=torch.int64)
    kernels.mask_edge_loss([logits], [targets], [], [], labels, True, False)
    launch, resources = found(absent_gpu, tmp_path)
    assert launch.grid == (3, 1, 1)
    assert resources.spilled == 0
    assert resources.registers <= 64


def test_gradients_of_all_classes(absent_gpu, tmp_path):
    errors, labels = torch.empty(3, 28, 28), torch.empty(3, dtype=torch.int64)
    kernels.mask_edge_loss_backward([torch.empty(3)], [errors], labels, [80])
    launch, resources = found(absent_gpu, tmp_path)
    assert launch.grid == (3, 31, 1)
    assert resources.spilled == 0
    assert resources.registers <= 32
    assert resources.wide_loads > 0


def test_uneven_rows(absent_gpu, tmp_path):
    logits, targets = torch.empty(3, 56, 56)[:, ::2, ::2], torch.empty(3, 28, 28)
    kernels.mask_edge_loss([logits], [targets], [], [], None, True, False)
    _, resources = found(absent_gpu, tmp_path)
    assert resources.spilled == 0
    assert resources.registers <= 64
