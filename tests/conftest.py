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


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "ignore:.*does not have a deterministic impl")


def pytest_collection_modifyitems(config, items):
    """What only a GPU can show is left out where none is asked for."""
    if "gpu" not in config.option.markexpr and not config.option.pretend_cuda:
        left_out = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def pytest_generate_tests(metafunc):
    """Operator tests take CUDA for their device where it is asked for."""
    folder, marker = metafunc.definition.path.parent.name, metafunc.definition.get_closest_marker
    if (folder != "ops" and not marker("gpu")) or marker("cpu_only"):
        return
    option = metafunc.config.option
    if option.pretend_cuda:
        # these look below the functions that the pretended device replaces
        if not metafunc.function.__name__.startswith(BELOW):
            metafunc.parametrize("device", ["pretend"], indirect=True)
    elif "gpu" in option.markexpr and folder == "ops":
        on_cuda = pytest.param("cuda", marks=pytest.mark.gpu)
        metafunc.parametrize("device", ["cpu", on_cuda], indirect=True)


@pytest.fixture(autouse=True)
def device(request):
    """The default device of a test: tensors that name none are on it."""
    needs_gpu = request.node.get_closest_marker("gpu")
    name = getattr(request, "param", "cuda" if needs_gpu else "cpu")
    if name == "pretend":
        from .pretend_cuda import PretendCuda

        with PretendCuda(), torch.device("cuda"):
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
