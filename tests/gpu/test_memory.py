"""Nothing stays behind in the memory of the device."""

import pytest
import torch

from ..ops.samples import SAMPLES
from .captured import ON_CUDA

pytestmark = pytest.mark.gpu
CALLS = 1000


@pytest.mark.parametrize("name", ON_CUDA)
def test_memory_does_not_grow(name):
    sample = SAMPLES[name]
    arguments = sample.arguments("cuda")
    for _ in range(3):
        sample.operator(*arguments)
    before = torch.cuda.memory_allocated()
    for _ in range(CALLS):
        sample.operator(*arguments)
    assert torch.cuda.memory_allocated() == before
