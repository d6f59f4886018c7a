"""Calls every Triton operator through the launchers that Triton builds, on a driver of a few lines.

``python -m tests.kernels.compiled.launchers FOLDER``: that is where the driver is built.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.nvidia.driver import CudaLauncher, include_dirs

from dynamask import _triton

from ...ops.samples import SAMPLES
from ..in_triton import InTriton
from .absent_gpu import AbsentGpu


class LaunchedGpu(AbsentGpu):
    """Kernels are started with all their arguments, by a driver that does nothing."""

    def __init__(self, driver: Any) -> None:
        super().__init__(90)
        self.driver = driver

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        note, start = super().launcher_cls(source, metadata), CudaLauncher(source, metadata)

        def launch(x, y, z, *arguments):
            note(x, y, z)
            start(x, y, z, *arguments)
            assert self.driver.blocks_of_launch(len(self.launches)) == x * y * z, metadata.name

        return launch


def build_driver(folder: Path) -> Any:
    library, source = folder / "libcuda.so.1", Path(__file__).with_name("libcuda.c")
    compiler = os.environ.get("CC") or shutil.which("gcc") or "clang"  # as Triton chooses
    command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library.name}"]
    command += [*(f"-I{x}" for x in include_dirs), "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def main() -> None:
    gpu = LaunchedGpu(build_driver(Path(sys.argv[1])))
    triton.runtime.driver.set_active(gpu)
    for name in _triton.OPERATORS:
        before = len(gpu.launches)
        with torch.no_grad(), InTriton():
            SAMPLES[name].operator(*SAMPLES[name].arguments())
        assert len(gpu.launches) > before
        print(name, *(launch.kernel for launch in gpu.launches[before:]), flush=True)
    print("done")


if __name__ == "__main__":
    main()
