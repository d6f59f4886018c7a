"""Runs the kernels of csrc/cuda on the CPU, under sanitizers: see csrc/hostcuda/cuda_host.h."""

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("g++") or shutil.which("clang++")
SANITIZERS = {"memory": "address,undefined,float-cast-overflow", "threads": "thread"}
LONGEST = 300  # seconds: a barrier that not all threads reach never ends


class HostCuda:
    """The driver of one kernel, built with one kind of sanitizer."""

    def __init__(self, stem: str, sanitizer: str, folder: Path, faults: dict[str, str]) -> None:
        self.folder = folder
        self.program = folder / "driver"
        source = folder / "csrc"
        shutil.copytree(ROOT / "csrc", source)
        for right, wrong in faults.items():
            plant(source / "cuda", stem, right, wrong)
        for path in (source / "cuda").iterdir():
            path.write_text(forgetting(path.read_text()))
        build = [COMPILER, "-std=c++20", "-g", "-pthread", "-fno-sanitize-recover"]
        build += [f"-fsanitize={SANITIZERS[sanitizer]}", f"-I{source}"]
        built = subprocess.run(
            [*build, source / f"hostcuda/{stem}.cpp", "-o", self.program],
            capture_output=True,
            text=True,
        )
        if "cannot find" in built.stderr:
            pytest.skip("the compiler has no sanitizer libraries")
        assert built.returncode == 0, built.stderr

    def run(self, *arguments: torch.Tensor | int) -> bytes:
        """What the driver wrote; raises what the sanitizer said."""
        given, wanted = self.folder / "in", self.folder / "out"
        with given.open("wb") as file:
            for x in arguments:
                file.write(struct.pack("q", x if isinstance(x, int) else x.numel()))
                if isinstance(x, torch.Tensor):
                    file.write(x.contiguous().numpy().tobytes())
        environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1:exitcode=66"}
        ran = subprocess.run(
            [self.program, given, wanted],
            capture_output=True,
            text=True,
            env=environment,
            timeout=LONGEST,
        )
        if ran.returncode != 0:
            raise SanitizerError(ran.stderr)
        return wanted.read_bytes()


def plant(folder: Path, stem: str, right: str, wrong: str) -> None:
    """Replaces the first ``right`` in the kernel's own file, or else in one that it may include."""
    for path in (
        folder / f"{stem}.cuh",
        *sorted(folder.glob("*.cuh")),
        *sorted(folder.glob("*.h")),
    ):
        text = path.read_text()
        if right in text:
            path.write_text(text.replace(right, wrong, 1))
            return
    raise AssertionError(f"no kernel has {right!r} to plant a fault in")


def forgetting(kernels: str) -> str:
    """Every block finds garbage in its shared memory."""

    def forget(declaration: re.Match) -> str:
        names = re.findall(r"(\w+)(?:\[[^\]]*\])*(?:,|$)", declaration[1])
        return f"{declaration[0]} hostcuda::forget({', '.join(names)});"

    return re.sub(r"__shared__ ([^;]+);", forget, kernels)


class SanitizerError(AssertionError):
    pass


def split(data: bytes, like: list[torch.Tensor]) -> list[torch.Tensor]:
    """The arrays of an output, of the shapes and dtypes of ``like``."""
    arrays = []
    for x in like:
        size = x.numel() * x.element_size()
        dtype = x.numpy().dtype
        arrays.append(torch.from_numpy(np.frombuffer(data[:size], dtype).copy()).view(x.shape))
        data = data[size:]
    assert not data
    return arrays


@pytest.fixture(scope="session")
def hostcuda(tmp_path_factory):
    """Builds a driver, once: ``hostcuda("bucket_rois", "threads", {right: wrong})``."""
    if COMPILER is None:
        pytest.skip("needs a C++ compiler")
    built = {}

    def build(stem: str, sanitizer: str, faults: dict[str, str] | None = None) -> HostCuda:
        key = (stem, sanitizer, *sorted((faults or {}).items()))
        if key not in built:
            folder = tmp_path_factory.mktemp(stem)
            built[key] = HostCuda(stem, sanitizer, folder, faults or {})
        return built[key]

    return build
