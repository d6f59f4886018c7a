"""How many kernels an image takes on a GPU, and that none of them is there to copy feature maps.

Counted where there is no GPU: the tensors are fake, and only their shapes, dtypes and layouts real.
"""

from collections import Counter

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dynamask.models.presets import dynamask_r50, maskrcnn_r50

from .test_cuda_graph import on_fake_cuda

MAKES_NOTHING = {"aten::empty", "aten::new_empty", "aten::empty_like", "aten::lift_fresh"}
COPIES = {"aten::clone", "aten::_to_copy", "aten::copy_"}
LARGE = 2 << 20  # bytes: more than proposals and boxes take


class Launches(TorchDispatchMode):
    """Counts operators that do something, and collects copies of anything like a map."""

    def __init__(self):
        super().__init__()
        self.names: Counter[str] = Counter()
        self.copied: list[tuple[str, torch.Size]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function._schema.name
        if name == "aten::convolution":  # what cuDNN answers, and fake tensors do not
            result = result.contiguous(memory_format=torch.channels_last)
        if not function.is_view and name not in MAKES_NOTHING and not name.startswith("prim"):
            self.names[name] += 1
            if name in COPIES and result.dim() > 1 and result.nbytes > LARGE:
                self.copied.append((name, result.shape))
        return result


@pytest.mark.parametrize(("make", "most"), [(dynamask_r50, 330), (maskrcnn_r50, 305)])
def test_an_image_of_800_x_1333_in_bf16(make, most):
    model = make(80).fused(torch.bfloat16)
    shapes = model.rpn.anchors.cell_anchors
    with FakeTensorMode() as mode, torch.device("cuda"), torch.no_grad():
        on_fake_cuda(mode, model)
        model.rpn.anchors.cell_anchors = [mode.from_tensor(shape).to("cuda") for shape in shapes]
        batch = model.batch([torch.rand(3, 800, 1333)])
        with Launches() as launches:
            model.every_slot(batch)
    assert launches.names.total() <= most, launches.names
    assert launches.copied == []
