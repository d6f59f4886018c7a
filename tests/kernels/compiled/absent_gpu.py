"""A GPU that is not there: Triton prepares every launch for it, and nothing runs."""

from itertools import count
from types import SimpleNamespace
from typing import Any, NamedTuple

from triton.backends.compiler import GPUTarget

SHARED_MEMORY = {80: 166_912, 90: 232_448, 100: 232_448}  # bytes that a block may have
MOST_BLOCKS = (2**31 - 1, 65_535, 65_535)


class Launch(NamedTuple):
    kernel: str
    grid: tuple[int, int, int]


class Binary(NamedTuple):
    kernel: str
    cubin: bytes
    shared: int


class AbsentGpu:
    """What Triton asks its driver for. Kernels are specialised and compiled, not started."""

    numbers = count()  # Triton keeps what it compiled by the number of the device

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.number = next(self.numbers)
        self.launches: list[Launch] = []
        self.binaries: list[Binary] = []
        self.utils = SimpleNamespace(
            get_device_properties=lambda _: {"max_shared_mem": SHARED_MEMORY[capability]},
            load_binary=self._load,
        )

    def _load(self, kernel: str, cubin: bytes, shared: int, device: int) -> tuple:
        self.binaries.append(Binary(kernel, cubin, shared))
        return 1, 1, 0, 0, 1024

    def get_current_device(self) -> int:
        return self.number

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        def launch(x, y, z, *_):
            for blocks, most in zip((x, y, z), MOST_BLOCKS):
                assert 1 <= blocks <= most, f"{metadata.name}: a grid of {(x, y, z)}"
            self.launches.append(Launch(metadata.name, (x, y, z)))

        return launch
