"""Work goes to the current stream, and the host waits for none of it."""

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ..ops.samples import SAMPLES
from .captured import ON_CUDA, assert_same_bits

pytestmark = pytest.mark.gpu
SLEEP = 50_000_000  # cycles: some 25 ms


@pytest.mark.parametrize("name", ON_CUDA)
def test_waits_for_what_the_current_stream_makes(name):
    sample = SAMPLES[name]
    arguments = sample.arguments("cuda", 5)
    expected = sample.operator(*arguments)
    late = tree_map_only(Tensor, torch.zeros_like, arguments)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(SLEEP)
        for to, source in zip(tree_leaves(late), tree_leaves(arguments), strict=True):
            if isinstance(to, Tensor):
                to.copy_(source)
        got = sample.operator(*late)
    side.synchronize()
    assert_same_bits(got, expected)


@pytest.mark.parametrize("name", [name for name in ON_CUDA if SAMPLES[name].static])
def test_the_host_does_not_wait(name):
    sample = SAMPLES[name]
    arguments = sample.arguments("cuda", 5)
    sample.operator(*arguments)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sample.operator(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", ON_CUDA)
def test_runs_where_its_tensors_are(name):
    sample = SAMPLES[name]
    expected = sample.operator(*sample.arguments("cuda:0", 5))
    got = sample.operator(*sample.arguments("cuda:1", 5))
    on_second = [x for x in tree_leaves(got) if isinstance(x, Tensor)]
    assert {x.device.index for x in on_second} == {1}
    assert_same_bits(tree_map_only(Tensor, lambda x: x.to("cuda:0"), got), expected)
