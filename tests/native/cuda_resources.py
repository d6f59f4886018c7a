"""What every CUDA kernel takes of a multiprocessor: csrc/cuda/resources.tsv.

``python tests/native/cuda_resources.py`` writes the table of the library that is built here; with
names of files (``nms deform_conv2d``) it compiles those, and leaves the others as they are.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "csrc/cuda/resources.tsv"
ARCHITECTURES = (80, 90, 100)
FLAGS = ("-std=c++17", "-fmad=false", "-lineinfo", "-DUSE_CUDA")  # as CMakeLists.txt has them
FLAGS += ("-DTORCH_TARGET_VERSION=0x020a000000000000ULL",)


class Resources(NamedTuple):
    registers: tuple[int, ...]  # per thread, on each architecture
    shared: int  # bytes per block, the most of all architectures; sm_100 adds 1024 of its own
    stack: int  # bytes per thread, likewise: arrays that are indexed, and registers spilled


Table = dict[str, dict[str, Resources]]  # of each kernel of each file


def stems() -> list[str]:
    return sorted(path.stem for path in (ROOT / "csrc/cuda").glob("*.cu"))


def library() -> Path | None:
    """The CUDA kernels as they are built and imported, if they are."""
    path = Path(find_spec("dynamask").origin).with_name("_C_cuda.so")
    return path if path.exists() else None


def toolkit(name: str) -> str | None:
    """A program of the CUDA toolkit; Triton brings those that look into binaries."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    folders = [Path(home, "bin")] if home else []
    if triton := find_spec("triton"):
        folders.append(Path(triton.origin).parent / "backends/nvidia/bin")
    found = (shutil.which(name, path=folder) for folder in folders)
    return next(filter(None, found), shutil.which(name))


@cache
def release() -> str:
    """The release of nvcc: another one may need other numbers of registers."""
    said = subprocess.run([toolkit("nvcc"), "--version"], capture_output=True, text=True).stdout
    return re.search(r"release (\S+),", said).group(1)


def what_is_in(binary: Path) -> str:
    return run([toolkit("cuobjdump"), "--dump-resource-usage", binary])


def run(command: list) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return done.stdout


def compiled(stem: str) -> Table:
    """The resources of the kernels of one file, compiled for this."""
    torch = Path(find_spec("torch").origin).parent
    targets = [f"-gencode=arch=compute_{x},code=sm_{x}" for x in ARCHITECTURES]
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, f"{stem}.fatbin")
        source = ROOT / f"csrc/cuda/{stem}.cu"
        includes = [f"-I{ROOT / 'csrc'}", f"-I{torch / 'include'}"]
        run([toolkit("nvcc"), *FLAGS, *includes, *targets, "-fatbin", source, "-o", binary])
        return parse(what_is_in(binary))


def parse(said: str) -> Table:
    """The resources of each kernel, from what cuobjdump says of all architectures."""
    found: dict[str, dict[str, dict[int, tuple[int, ...]]]] = {}
    names = set(re.findall(r"Function (\S+):", said))
    readable = dict(zip(names, demangle(names)))
    for part in said.split("Fatbin elf code:")[1:]:
        architecture = int(re.search(r"arch = sm_(\d+)", part).group(1))
        stem = Path(re.search(r"identifier = (.+)", part).group(1)).stem
        kernels = found.setdefault(stem, {})
        usage = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)"
        for name, registers, stack, shared in re.findall(usage, part):
            of_each = kernels.setdefault(readable[name], {})
            of_each[architecture] = int(registers), int(shared), int(stack)
    return {stem: {k: summary(x) for k, x in kernels.items()} for stem, kernels in found.items()}


def summary(of_each: dict[int, tuple[int, ...]]) -> Resources:
    wanted = [of_each[x] for x in ARCHITECTURES if x in of_each]
    registers, shared, stack = zip(*wanted) if wanted else ((), (0,), (0,))
    return Resources(registers, max(shared), max(stack))


def demangle(names: set[str]) -> list[str]:
    """Names of kernels with their template arguments, in the order of the set."""
    return [short(x) for x in run(["c++filt", *names]).splitlines()] if names else []


def short(name: str) -> str:
    name = name.replace("dynamask::cuda::", "").removeprefix("void ")
    depth = 0
    for i, letter in enumerate(name):  # up to the parameters
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:i]
    return name


def read_table() -> tuple[str, Table]:
    """The release of nvcc, and the resources of each kernel of each stem."""
    first, _, *lines = TABLE.read_text().splitlines()
    table: Table = {}
    for line in lines:
        stem, kernel, *numbers = line.split("\t")
        *registers, shared, stack = map(int, numbers)
        table.setdefault(stem, {})[kernel] = Resources(tuple(registers), shared, stack)
    return first.split()[-1], table


def write_table(only: list[str]) -> None:
    if only:
        table = read_table()[1]
        for stem in only:
            table |= compiled(stem)
    elif built := library():
        table = parse(what_is_in(built))
    else:
        sys.exit("there is no dynamask/_C_cuda.so here: build with DYNAMASK_CUDA=1, or name files")
    columns = [f"registers sm_{architecture}" for architecture in ARCHITECTURES]
    lines = [f"# {Path(__file__).relative_to(ROOT)} wrote this with nvcc {release()}"]
    lines.append("\t".join(["file", "kernel", *columns, "shared bytes", "stack bytes"]))
    for stem in sorted(table.keys() & set(stems())):
        for name, x in sorted(table[stem].items()):
            lines.append("\t".join([stem, name, *map(str, (*x.registers, x.shared, x.stack))]))
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_table(sys.argv[1:])
