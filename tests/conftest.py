import pytest
import torch


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan():
    """torch.empty hands out NaN, in C++ too, so a kernel that skips an element is caught."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
