import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

triton = pytest.importorskip("triton")

CAPABILITIES = (80, 90, 100)


class Resources(NamedTuple):
    """What a compiled kernel takes and does, as ptxas and the disassembler tell."""

    registers: int
    spilled: int  # instructions that load or store local memory
    shared: int  # bytes
    mma: int  # instructions of tensor cores
    wide_loads: int  # of 16 bytes per thread


@pytest.fixture
def compiled(tmp_path):
    """Compiles a kernel with no GPU: ``compiled(kernel, signature, constants, 90, num_warps=4)``.

    The signature names the types of the arguments, such as ``"*bf16"`` and ``"i32"``; pointers and
    numbers in ``divisible`` are multiples of 16.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def build(kernel, signature, constants, capability, divisible=(), **options) -> Resources:
        names = kernel.arg_names

        def paths(name):
            """Where an argument stands: each part of a tuple by itself."""
            at, kind = names.index(name), signature[name]
            return [(at, k) for k in range(len(kind))] if isinstance(kind, tuple) else [(at,)]

        source = ASTSource(
            fn=kernel,
            signature={n: "constexpr" if n in constants else signature[n] for n in names},
            constexprs=constants,
            attrs={path: [["tt.divisibility", 16]] for n in divisible for path in paths(n)},
        )
        target = GPUTarget("cuda", capability, 32)
        built = triton.compile(source, target=target, options=options)
        return resources_of(built.asm["cubin"], built.metadata.shared, tmp_path)

    return build


@pytest.fixture
def absent_gpu(request):
    """What Triton takes for its device, of capability 90 or of an indirect parameter."""
    from .absent_gpu import AbsentGpu

    absent = AbsentGpu(getattr(request, "param", 90))
    triton.runtime.driver.set_active(absent)
    yield absent
    triton.runtime.driver._active = None


def resources_of(binary: bytes, shared: int, folder: Path) -> Resources:
    """What a compiled kernel takes and does."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(binary)
    usage = _run(tools / "cuobjdump", "-res-usage", cubin)
    code = _run(tools / "nvdisasm", "-c", cubin)

    def count(pattern):
        return len(re.findall(pattern, code))

    return Resources(
        registers=int(re.search(r"REG:(\d+)", usage)[1]),
        spilled=count(r"\b(LDL|STL)\b"),
        shared=shared,
        mma=count(r"\b(HMMA|HGMMA|UTCHMMA|QGMMA)"),
        wide_loads=count(r"LDG\.E\.128|LDG\.E\S*\.128"),
    )


def _run(tool, *arguments) -> str:
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout
