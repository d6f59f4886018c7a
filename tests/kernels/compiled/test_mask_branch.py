"""The mask branch as the model has it, up to its launches: what it starts, and that it fits."""

from collections import Counter

import pytest
import torch

from dynamask.models.dynamic_mask_head import DynamicMaskHead
from dynamask.models.fused import fuse
from dynamask.models.instances import Instances

from ..in_triton import InTriton
from .conftest import resources_of

pytest.importorskip("triton")


@torch.no_grad()
def test_launches_of_256_channels(absent_gpu, tmp_path):
    head = fuse(DynamicMaskHead(80, 256, 256, mode="size").eval(), torch.bfloat16)
    levels = [torch.zeros(1, 256, 128 // s, 128 // s).bfloat16() for s in (4, 8, 16, 32)]
    boxes, labels = torch.tensor([[0.0, 0, 128, 128], [9, 9, 20, 20]]), torch.tensor([1, 79])
    with InTriton():
        head(head.context(levels, [(128, 128)]), Instances(boxes, labels, torch.zeros_like(labels)))

    started = Counter(launch.kernel for launch in absent_gpu.launches)
    assert started["deform_conv2d_kernel"] == 6  # two of each stage
    assert started["grouped_mask_head_kernel"] == 1
    assert len(absent_gpu.launches) <= 19
    for kernel, cubin, shared in absent_gpu.binaries:
        found = resources_of(cubin, shared, tmp_path)
        assert found.spilled == 0, (kernel, found)
        assert found.mma > 0 or kernel == "grouped_mask_head_kernel", (kernel, found)
