"""Hands the native build to CMakeLists.txt; everything else is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# What a binary for anyone carries: Ampere, Ada, Hopper, Blackwell, and PTX for what comes after.
DEFAULT_CUDA_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"


def tool(name: str) -> str:
    """The path of a build tool: the pip package of this environment, else the one on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        sys.exit(f"dynamask: building needs {name}: `pip install {name}` and run this again")
    return found


def nvcc() -> str | None:
    """The nvcc inside its toolkit folder (the one on PATH may be a wrapper script elsewhere)."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = f"{home}/bin/nvcc" if home and Path(home, "bin/nvcc").exists() else shutil.which("nvcc")
    if not found:
        return None
    dryrun = subprocess.run([found, "--dryrun", "-x", "cu", "-"], capture_output=True, text=True)
    for line in dryrun.stderr.splitlines():
        if line.startswith("#$ TOP="):
            return str(Path(line.removeprefix("#$ TOP=").strip(), "bin", "nvcc").resolve())
    return found


def cuda_options() -> list[str]:
    """-D options that switch csrc/cuda on, or off with the reason printed."""
    import torch

    wanted = os.environ.get("DYNAMASK_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        sys.exit(f"dynamask: DYNAMASK_CUDA is auto, 0 or 1, got {wanted!r}")
    compiler = nvcc()
    why_not = None
    if wanted == "0":
        why_not = "DYNAMASK_CUDA=0"
    elif torch.version.cuda is None:
        why_not = f"torch {torch.__version__} is a build without CUDA"
    elif compiler is None:
        why_not = "no nvcc on PATH or in CUDA_HOME"
    if why_not:
        if wanted == "1":
            sys.exit(f"dynamask: DYNAMASK_CUDA=1, but {why_not}")
        print(f"dynamask: CUDA kernels are left out: {why_not}")
        return ["-DDYNAMASK_CUDA=OFF"]
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_CUDA_ARCHITECTURES
    architectures = []
    for arch in listed.replace(" ", ";").split(";"):
        number = arch.removesuffix("+PTX").replace(".", "")
        architectures.append(f"{number}-real")
        if arch.endswith("+PTX"):
            architectures.append(f"{number}-virtual")
    return [
        "-DDYNAMASK_CUDA=ON",
        f"-DCMAKE_CUDA_COMPILER={compiler}",
        f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(architectures)}",
    ]


class CMakeBuild(build_ext):
    """Builds the three native libraries into the package folder."""

    def run(self):
        if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")):
            sys.exit(
                "dynamask: no C++ compiler found. Install one (Debian: apt install g++) or set CXX."
            )
        output = Path(self.get_ext_fullpath("dynamask._C")).resolve().parent
        (output / "_C_cuda.so").unlink(missing_ok=True)  # of an earlier build, perhaps with CUDA
        build = Path(os.environ.get("DYNAMASK_BUILD") or self.build_temp).resolve()
        options = [
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DDYNAMASK_OUTPUT={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            *cuda_options(),
        ]
        cmake = tool("cmake")
        subprocess.check_call([cmake, "-S", ROOT, "-B", build, "-G", "Ninja", *options])
        subprocess.check_call([cmake, "--build", build])

    def get_outputs(self):
        return []


setup(
    packages=[
        *find_packages(include=["dynamask", "dynamask.*"]),
        "dynamask.benchmarks",
        "dynamask.kernels",
    ],
    package_dir={"dynamask.benchmarks": "benchmarks", "dynamask.kernels": "kernels"},
    package_data={"dynamask": ["py.typed", "*.pyi", "**/*.safetensors", "**/*.yaml"]},
    ext_modules=[Extension("dynamask._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
