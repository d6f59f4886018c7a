"""Fake tensors on CUDA answer as real ones on the CPU do: shape, dtype, layout; on their device."""

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_leaves, tree_map_only

from dynamask import _library

from .one_device import OnOneDevice
from .samples import SAMPLES

pytestmark = pytest.mark.cpu_only  # the device is a fake


def on_fake_cuda(mode: FakeTensorMode, arguments: tuple) -> tuple:
    return tree_map_only(Tensor, lambda x: mode.from_tensor(x).to("cuda"), arguments)


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - _library.CPU_ONLY))
@pytest.mark.parametrize(
    ("n", "dtype"), [(3, torch.float32), (3, torch.bfloat16), (0, torch.float32)]
)
def test_fake_cuda_is_like_the_cpu(name, n, dtype):
    sample = SAMPLES[name]
    arguments = tree_map_only(
        Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, sample.arguments(n=n)
    )
    expected = sample.operator(*arguments)
    with FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True) as mode, torch.no_grad():
        given = on_fake_cuda(mode, arguments)
        got = sample.operator(*given)
    pairs = list(zip(tree_leaves(got), tree_leaves(expected), strict=True))
    assert any(isinstance(x, Tensor) for x, _ in pairs)
    for fake, real in pairs:
        if not isinstance(real, Tensor):
            assert fake == real
            continue
        assert fake.device.type == "cuda"
        assert fake.dtype == real.dtype
        if sample.static:
            assert fake.shape == real.shape
            assert fake.stride() == real.stride()
        else:
            assert fake.dim() == real.dim()


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - _library.CPU_ONLY))
def test_the_way_to_the_kernel_waits_for_nothing(name):
    """Nor does it copy from the host, which is to wait."""
    sample = SAMPLES[name]
    arguments = sample.arguments()
    with FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True) as mode, torch.no_grad():
        given = on_fake_cuda(mode, arguments)
        with OnOneDevice():
            sample.operator(*given)
