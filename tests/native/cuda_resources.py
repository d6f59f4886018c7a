"""What every CUDA kernel takes of a multiprocessor, as ptxas says: csrc/cuda/resources.tsv.

``python tests/native/cuda_resources.py`` compiles all of csrc/cuda and writes the table again;
with names of files (``nms deform_conv2d``) those alone.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "csrc/cuda/resources.tsv"
ARCHITECTURES = (80, 90, 100)
FLAGS = ("-std=c++17", "-fmad=false", "-Xptxas=-v", "-DUSE_CUDA")  # as CMakeLists.txt has them
FLAGS += ("-DTORCH_TARGET_VERSION=0x020a000000000000ULL",)


class Resources(NamedTuple):
    registers: tuple[int, ...]  # per thread, on each architecture
    shared: int  # bytes per block, the most of all architectures
    stack: int  # bytes per thread, likewise
    spilled: int = 0  # bytes stored and loaded again, likewise; never in the table


def stems() -> list[str]:
    return sorted(path.stem for path in (ROOT / "csrc/cuda").glob("*.cu"))


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = f"{home}/bin/nvcc" if home and Path(home, "bin/nvcc").exists() else shutil.which("nvcc")
    return found if shutil.which("c++filt") else None


@cache
def release() -> str:
    """The release of nvcc: another one may need other numbers of registers."""
    said = subprocess.run([nvcc(), "--version"], capture_output=True, text=True).stdout
    return re.search(r"release (\S+),", said).group(1)


def is_known(architecture: int) -> bool:
    listed = subprocess.run([nvcc(), "--list-gpu-arch"], capture_output=True, text=True).stdout
    return f"compute_{architecture}\n" in listed


def what_ptxas_says(stem: str, architecture: int) -> str:
    torch = Path(find_spec("torch").origin).parent
    with tempfile.TemporaryDirectory() as folder:
        built = subprocess.run(
            [
                *(nvcc(), *FLAGS, f"-I{ROOT / 'csrc'}", f"-I{torch / 'include'}", "-cubin"),
                *(f"-arch=sm_{architecture}", ROOT / f"csrc/cuda/{stem}.cu"),
                *("-o", f"{folder}/{stem}.cubin"),
            ],
            capture_output=True,
            text=True,
        )
    if built.returncode != 0:
        raise RuntimeError(built.stderr)
    return built.stderr


def parse(said: str) -> dict[str, Resources]:
    """The resources of each kernel, on one architecture, from the lines of ptxas."""
    found = {}
    for part in said.split("Compiling entry function '")[1:]:
        name = readable(part.split("'")[0])
        stack, *spills = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        ).groups()
        registers = re.search(r"Used (\d+) registers", part).group(1)
        shared = re.search(r"(\d+) bytes smem", part)
        found[name] = Resources(
            (int(registers),),
            int(shared.group(1)) if shared else 0,
            int(stack),
            sum(map(int, spills)),
        )
    return found


def readable(mangled: str) -> str:
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True).stdout.strip()
    name = name.replace("dynamask::cuda::", "").removeprefix("void ")
    depth = 0
    for i, letter in enumerate(name):  # up to the parameters
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:i]
    return name


def measured(stem: str) -> dict[str, Resources]:
    with ThreadPoolExecutor(2) as pool:
        said = pool.map(what_ptxas_says, [stem] * len(ARCHITECTURES), ARCHITECTURES)
        of_each = [parse(text) for text in said]
    kernels = {}
    for name in of_each[0]:
        each = [resources[name] for resources in of_each]
        kernels[name] = Resources(
            tuple(x.registers[0] for x in each), *(max(x[i] for x in each) for i in (1, 2, 3))
        )
    return kernels


def read_table() -> tuple[str, dict[str, dict[str, Resources]]]:
    """The release of nvcc, and the resources of each kernel of each stem."""
    first, _, *lines = TABLE.read_text().splitlines()
    table: dict[str, dict[str, Resources]] = {}
    for line in lines:
        stem, kernel, *numbers = line.split("\t")
        *registers, shared, stack = map(int, numbers)
        table.setdefault(stem, {})[kernel] = Resources(tuple(registers), shared, stack)
    return first.split()[-1], table


def write_table(only: list[str]) -> None:
    table = read_table()[1] if only else {}
    for stem in only or stems():
        table[stem] = measured(stem)
        for name, x in table[stem].items():
            if x.spilled:
                print(f"{stem}: {name} spills {x.spilled} bytes", file=sys.stderr)
    columns = [f"registers sm_{architecture}" for architecture in ARCHITECTURES]
    lines = [f"# {Path(__file__).relative_to(ROOT)} wrote this with nvcc {release()}"]
    lines.append("\t".join(["file", "kernel", *columns, "shared bytes", "stack bytes"]))
    for stem in sorted(table.keys() & set(stems())):
        for name, x in sorted(table[stem].items()):
            numbers = (*x.registers, x.shared, x.stack)
            lines.append("\t".join([stem, name, *map(str, numbers)]))
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_table(sys.argv[1:])
