"""Which kernel serves an operator on a GPU: Triton's, the one below it, or none."""

import importlib
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

import dynamask.ops  # noqa: F401  (takes the seats)
from dynamask import _library, _triton, info

from .ops.samples import SAMPLES

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = re.findall(r'"(\w+)\(', (ROOT / "csrc/library.cpp").read_text())


@pytest.fixture
def triton_could_run(monkeypatch, tmp_path):
    """Whatever this machine lacks; each test then takes one thing away."""
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("DYNAMASK_TRITON", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("sysconfig.get_paths", lambda scheme: {"include": str(tmp_path)})
    assert _triton.why_not() is None
    return tmp_path


def test_a_switch_turns_triton_off(triton_could_run, monkeypatch):
    monkeypatch.setenv("DYNAMASK_TRITON", "0")
    assert _triton.why_not() == "switched off by DYNAMASK_TRITON=0"


def test_what_triton_cannot_do_without(triton_could_run, monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(torch.version, "cuda", None)
        assert "a build without CUDA" in _triton.why_not()
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None)
        assert _triton.why_not() == "triton is not installed"
    with monkeypatch.context() as without:
        without.setattr("shutil.which", lambda name: None)
        assert "neither CC is set nor is there gcc or clang" in _triton.why_not()
        without.setenv("CC", "icc")
        assert "CC=icc is no program" in _triton.why_not()
    with monkeypatch.context() as with_clang:
        with_clang.setattr("shutil.which", lambda name: name if name == "clang" else None)
        assert _triton.why_not() is None
    (triton_could_run / "Python.h").unlink()
    assert "no Python.h" in _triton.why_not()


class FakeTriton:
    """A throw-away operator whose kernels say who they are, and a module that takes its seat."""

    DTYPES = (torch.float32, torch.bfloat16)

    def __init__(self, name: str, has_base: bool) -> None:
        self.library = torch.library.Library(f"seats_{name}", "FRAGMENT")
        self.library.define("who(Tensor labels, Tensor x, *, Tensor? count=None) -> Tensor")
        if has_base:
            self.library.impl("who", lambda *_, count=None: torch.tensor(1), "CPU")
        self.calls = 0
        self.error: Exception | None = None
        module = types.ModuleType(f"kernels_of_{name}")
        module.DTYPES, module.who = self.DTYPES, self.kernel
        sys.modules[module.__name__] = module
        self.seat = _triton.take_seat(self.library, "CPU", "who", module.__name__)

    def kernel(self, labels, x, *, count=None):
        self.calls += 1
        if self.error is not None:
            raise self.error
        return torch.tensor(2 if count is None else 3)

    def who(self, dtype=torch.float32, **options) -> int:
        labels, x = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=dtype)
        return int(getattr(torch.ops, self.library.ns).who(labels, x, **options))


def test_triton_serves_the_dtypes_it_takes_and_the_seat_below_the_others():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # taking a seat says nothing
        op = FakeTriton("dtypes", has_base=True)
    assert op.who() == op.who(torch.bfloat16) == 2
    assert op.who(torch.float64) == 1
    assert op.who(count=torch.tensor(1)) == 3
    assert op.who(torch.float64, count=torch.tensor(1)) == 1
    assert op.calls == 3


@pytest.mark.parametrize("schema", sorted(_triton.OPERATORS))
def test_the_real_seat_below_is_called_with_all_arguments(schema, monkeypatch):
    """On the CPU: what takes the seat there hands fp64 down to the kernel in C++."""
    pytest.importorskip("triton")
    module = importlib.import_module(f"dynamask.kernels.{_triton.OPERATORS[schema]}")
    monkeypatch.setattr(module, "DTYPES", (torch.float32,))
    sample = SAMPLES[schema]
    arguments = tree_map_only(
        torch.Tensor, lambda x: x.double() if x.is_floating_point() else x, sample.arguments()
    )
    expected = tree_leaves(sample.operator(*arguments))
    with torch.library._scoped_library("dynamask", "IMPL") as library:
        assert _triton.take_seat(library, "CPU", schema, module.__name__).below is not None
        got = tree_leaves(sample.operator(*arguments))
    assert all(map(torch.equal, got, expected))


def errors_of_the_build():
    errors = pytest.importorskip("triton.errors")
    return [
        errors.TritonError("out of resource: shared memory"),
        subprocess.CalledProcessError(1, "gcc"),
        FileNotFoundError("ccache gcc"),
        ImportError("libtriton.so"),
        RuntimeError("Failed to find C compiler."),
    ]


@pytest.mark.parametrize("which", range(5))
def test_a_kernel_that_cannot_be_built_is_named_once(which):
    error = errors_of_the_build()[which]
    op = FakeTriton(f"unbuilt_{which}", has_base=True)
    op.error = error
    with pytest.warns(
        RuntimeWarning, match=f"who runs without its Triton .*{type(error).__name__}"
    ):
        assert op.who() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert op.who() == 1
    assert op.calls == 1


@pytest.mark.parametrize(
    "error",
    [ValueError("bad"), RuntimeError("shape"), torch.cuda.OutOfMemoryError("full")],
    ids=repr,
)
def test_a_kernel_that_fails_at_its_work_is_not_hidden(error):
    op = FakeTriton(f"failing_{type(error).__name__}", has_base=True)
    op.error = error
    with pytest.raises(type(error), match=str(error)):
        op.who()
    assert op.seat.failure is None


def test_says_so_when_nothing_serves_a_call():
    op = FakeTriton("alone", has_base=False)
    assert op.seat.below is None
    assert op.who() == 2
    with pytest.raises(NotImplementedError, match=r"no CUDA kernel for torch.float64"):
        op.who(torch.float64)
    op.error = ImportError("libtriton.so")
    with pytest.raises(NotImplementedError, match=r"could not build it: ImportError: libtriton.so"):
        op.who()


def test_every_operator_has_a_cuda_seat():
    cuda = "".join(path.read_text() for path in (ROOT / "csrc/cuda").glob("*.cu"))
    faces = "".join(path.read_text() for path in (ROOT / "dynamask/ops").glob("*.py"))
    written = set(re.findall(r'm\.impl\("(\w+)"', cuda))
    composed = set(re.findall(r'@composed_on_cuda\("(\w+)"\)', faces))
    assert not written & composed
    assert set(SCHEMAS) - written - composed == _library.CPU_ONLY


def test_every_operator_has_a_sample():
    assert SAMPLES.keys() == set(SCHEMAS)


@pytest.mark.skipif(not _library.HAS_CUDA_KERNELS, reason="built without CUDA")
def test_every_cuda_seat_is_taken():
    none = {schema for schema, found in info.cuda_seats().items() if found["cuda"] == "none"}
    assert none == _library.CPU_ONLY


def test_every_triton_kernel_has_its_seat():
    defined = {
        (schema, path.stem)
        for path in (ROOT / "kernels").glob("*.py")
        for schema in re.findall(r"^def (\w+)\(", path.read_text(), re.M)
        if schema in SCHEMAS
    }
    assert defined == set(_triton.OPERATORS.items())


def test_info_shows_who_serves(monkeypatch, capsys):
    served = types.SimpleNamespace(failure=None, below=None)
    broken = types.SimpleNamespace(failure="Triton could not build it: PTXASError: x", below=1)
    monkeypatch.setattr(_triton, "OPERATORS", {"class_logits": "", "nms": "", "roi_align": ""})
    monkeypatch.setattr(_triton, "SEATS", {"class_logits": served, "nms": broken})
    monkeypatch.setattr(_triton, "why_not", lambda: "switched off")
    monkeypatch.setattr(_library, "COMPOSED", {"deform_conv2d"})
    monkeypatch.setattr(
        "torch._C._dispatch_has_kernel_for_dispatch_key", lambda name, _: "nms" in name
    )
    monkeypatch.setenv("COLUMNS", "70")
    seats = info.cuda_seats()
    assert set(seats) == set(SCHEMAS)
    assert seats["class_logits"] == {"cuda": "Triton", "why": None}
    assert seats["nms"] == {"cuda": "CUDA C++", "why": broken.failure}
    assert seats["batched_nms"] == {"cuda": "CUDA C++", "why": "no Triton kernel"}
    assert seats["deform_conv2d"] == {"cuda": "composition", "why": "no Triton kernel"}
    assert seats["roi_align"]["cuda"] == "none"
    assert seats["roi_align"]["why"].startswith("Triton is not used: switched off; ")
    assert seats["winograd_conv2d"] == {"cuda": "none", "why": "for the CPU"}

    info._print_seats(seats)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  Triton          class_logits"
    assert "  CUDA C++        nms" in lines
    assert f"{'':18}({broken.failure})" in lines
    assert max(map(len, lines)) <= 70
