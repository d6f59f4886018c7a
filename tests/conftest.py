"""Devices: `pytest` runs everything on the CPU, `pytest -m gpu` the operators on CUDA."""

import os

import pytest
import torch

# Tests of torch.compile, opcheck, gradcheck and autocast.
BELOW = ("test_compiles", "test_registration", "test_gradcheck", "test_runs_under_autocast")

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products


def pytest_addoption(parser):
    parser.addoption(
        "--pretend-cuda",
        action="store_true",
        help="run operator tests on a device that only says it is CUDA: tests/pretend_cuda.py",
    )


def pytest_generate_tests(metafunc):
    """Operator tests take CUDA for their device where it is asked for."""
    of_operators = metafunc.definition.path.parent.name == "ops"
    if not of_operators or metafunc.definition.get_closest_marker("cpu_only"):
        return
    option = metafunc.config.option
    if option.pretend_cuda:
        # these look below the functions that the pretended device replaces
        if not metafunc.function.__name__.startswith(BELOW):
            metafunc.parametrize("device", ["pretend"], indirect=True)
    elif "gpu" in option.markexpr:
        on_cuda = pytest.param("cuda", marks=pytest.mark.gpu)
        metafunc.parametrize("device", ["cpu", on_cuda], indirect=True)


@pytest.fixture(autouse=True)
def device(request):
    """The default device of a test: tensors that name none are on it."""
    name = getattr(request, "param", "cpu")
    if request.node.get_closest_marker("gpu"):
        name = "cuda"
    if name == "pretend":
        from .pretend_cuda import PretendCuda

        with PretendCuda():
            yield torch.device("cuda")
    elif name == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        torch.backends.cudnn.allow_tf32 = False  # the operators' fp32 is IEEE, so is what they meet
        with torch.device("cuda"):
            yield torch.device("cuda")
    else:
        yield torch.device("cpu")


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan():
    """torch.empty hands out NaN, in C++ too, so a kernel that skips an element is caught."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
