"""The rules of the house that a machine can check: where things are, what may import what."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = re.findall(r'"(\w+)\(', (ROOT / "csrc/library.cpp").read_text())
STEMS = sorted(p.stem for p in (ROOT / "csrc/ops").glob("*.h"))
MODULES = sorted((ROOT / "dynamask").rglob("*.py")) + sorted((ROOT / "kernels").glob("*.py"))


def stem_of(schema: str) -> str:
    return max((stem for stem in STEMS if stem in schema), key=len, default="")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        capture_output=True,
        text=True,
    ).stdout.split()
    return [ROOT / name for name in listed if (ROOT / name).exists()]


def imports_of(path: Path) -> set[str]:
    """Every module a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_schema_belongs_to_a_stem_and_has_a_cpu_kernel(schema):
    stem = stem_of(schema)
    assert stem, f"{schema} has no csrc/ops/<stem>.h"
    kernels = (ROOT / "csrc/cpu").glob(f"{stem}*.cpp")
    assert any(f'm.impl("{schema}"' in path.read_text() for path in kernels)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize(
    "place",
    [
        "dynamask/ops/{}.py",
        "dynamask/reference/{}.py",
        "csrc/cpu/{}.cpp",
        "tests/ops/test_{}.py",
        "benchmarks/bench_{}.py",
    ],
)
def test_one_stem_in_every_layer(stem, place):
    assert (ROOT / place.format(stem)).exists()


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_schema_has_a_fake_kernel(schema):
    assert f'"dynamask::{schema}"' in (ROOT / f"dynamask/ops/{stem_of(schema)}.py").read_text()


FORBIDDEN = {  # a folder (or file), and what nothing in it may import
    "dynamask/reference": ("dynamask.", "torchvision", "numpy"),
    "dynamask/ops": ("dynamask.models", "dynamask.data", "dynamask.reference", "torchvision"),
    "dynamask/data": ("dynamask.models", "dynamask.reference"),
    "dynamask/models": ("dynamask.reference", "dynamask.kernels", "dynamask.data", "dynamask.cli"),
    "kernels": ("dynamask.ops", "dynamask.models", "torch.library"),
    "dynamask/testing.py": ("dynamask.models", "dynamask.ops"),
    "dynamask/cli.py": ("torch",),
}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down_only(path):
    name = str(path.relative_to(ROOT))
    for place, forbidden in FORBIDDEN.items():
        if name == place or name.startswith(place + "/"):
            own = "dynamask.reference" if place == "dynamask/reference" else "nothing of its own"
            wrong = {i for i in imports_of(path) for f in forbidden if (i + ".").startswith(f)}
            wrong = {i for i in wrong if not (i + ".").startswith(own + ".")}
            assert not wrong, f"{name} imports {sorted(wrong)}"


def test_models_use_the_public_operators():
    for path in (ROOT / "dynamask/models").glob("*.py"):
        assert "torch.ops.dynamask" not in path.read_text(), path


def test_no_star_imports_and_no_utils():
    for path in MODULES:
        assert "import *" not in path.read_text(), path
        assert path.stem not in ("utils", "common", "helpers", "misc"), path


def test_files_are_short():
    too_long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked("*.py", "*.cpp", "*.cu", "*.h", "*.cuh")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not too_long


def test_native_code_uses_the_stable_abi_only():
    for path in tracked("csrc/*.cpp", "csrc/*.cu*", "csrc/*.h"):
        text = path.read_text()
        assert not re.search(r"#include <(torch/extension|torch/all|ATen/|c10/)", text), path
        # one place starts kernels, and checks that they started
        assert "<<<" not in text or path.name == "launch.h", path


def test_every_cuda_kernel_runs_under_sanitizers():
    for path in tracked("csrc/cuda/*.cuh"):
        for place in ("csrc/hostcuda/{}.cpp", "tests/hostcuda/test_{}.py"):
            assert (ROOT / place.format(path.stem)).exists(), place.format(path.stem)
    for path in tracked("csrc/cuda/*.cu"):
        assert "__global__" not in path.read_text(), path


def kernels_and_their_comments():
    """Each with the comment before it, in CUDA C++, or with those inside of it, in Triton."""
    for path in tracked("csrc/cuda/*.cuh", "csrc/cuda/*.h"):
        text = path.read_text()
        kernel = r"((?:^//.*\n)*)(?:template.*\n)?.*__global__ void[^(]*?(\w+)\("
        found = re.findall(kernel, text, re.MULTILINE)
        assert len(found) == text.count("__global__"), path
        yield from ((name, comment) for comment, name in found)
    for path in tracked("kernels/*.py"):
        for part in path.read_text().split("@triton.jit")[1:]:
            name = re.search(r"def (\w+)\(", part)[1]
            if name.endswith("_kernel"):
                yield name, "".join(re.findall(r"#.*\n", part))


def test_every_kernel_says_what_one_owns_and_what_bounds_it():
    for name, comment in kernels_and_their_comments():
        words = " ".join(re.sub(r"//|#", " ", comment).split())
        assert " owns" in words or " own " in words, name
        assert "ound by" in words, name


def test_every_triton_kernel_is_interpreted_and_compiled():
    for path in tracked("kernels/*.py"):
        if "triton.jit" in path.read_text():
            for kind in ("interpreted", "compiled"):
                assert (ROOT / f"tests/kernels/{kind}/test_{path.stem}.py").exists()


def test_formulas_and_device_kernels_know_no_tensors():
    for path in tracked("csrc/common/*.h", "csrc/ops/*.h", "csrc/cuda/*.cuh"):
        assert "#include <torch" not in path.read_text(), path


def test_simd_kernels_use_no_containers():
    # the linker keeps one copy of an inline function: it must not be the one built for AVX-512
    for path in tracked("csrc/cpu/simd/*.cpp"):
        assert not re.search(r"std::(vector|string|map|function|sort)\b", path.read_text()), path


def test_pins_stand_in_constraints_only():
    assert "==" not in (ROOT / "pyproject.toml").read_text()
