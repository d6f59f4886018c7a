"""Interprets every Triton operator where a stray access ends the process.

Each tensor lies against a page that nobody may touch: in one round with its end, in the other with
its start. ``python -m tests.kernels.interpreted.fenced``, with TRITON_INTERPRET=1; with ``stray``
for an argument a kernel reads one element too many.
"""

import ctypes
import faulthandler
import mmap
import sys

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from dynamask import _triton

from ...ops.samples import SAMPLES
from ..in_triton import InTriton

PROT_NONE, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS = 0, 3, 0x22
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Fenced(TorchDispatchMode):
    """Whatever is allocated lies between fences."""

    def __init__(self, at_the_end: bool) -> None:
        super().__init__()
        self.at_the_end = at_the_end
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return self.fence(function(*args, **(kwargs or {})))

    def fence(self, tensors):
        return tree_map_only(Tensor, self._move, tensors)

    def _move(self, x: Tensor) -> Tensor:
        if x.numel() == 0 or x.untyped_storage().data_ptr() in self.known:
            return x
        extent = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride()))
        memory = self._allocate(extent * x.element_size())
        self.known.add(memory.data_ptr())
        copy = memory.view(x.dtype).copy_(x.as_strided((extent,), (1,)))
        return copy.as_strided(x.shape, x.stride())

    def _allocate(self, size: int) -> Tensor:
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        start = libc.mmap(
            *(None, pages + 2 * mmap.PAGESIZE, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0)
        )
        for fence in (start, start + mmap.PAGESIZE + pages):
            assert libc.mprotect(fence, mmap.PAGESIZE, PROT_NONE) == 0
        first = start + mmap.PAGESIZE + (pages - size if self.at_the_end else 0)
        return torch.frombuffer((ctypes.c_char * size).from_address(first), dtype=torch.uint8)


@triton.jit
def read_kernel(x, out, place):
    tl.store(out, tl.load(x + place))


def main() -> None:
    faulthandler.enable()
    for at_the_end in (True, False):
        if "stray" in sys.argv:
            x = Fenced(at_the_end).fence(torch.ones(5))
            read_kernel[(1,)](x, torch.zeros(1), 5 if at_the_end else -1)
        for name in _triton.OPERATORS:
            print(name, "at the end" if at_the_end else "at the start", flush=True)
            sample, fenced = SAMPLES[name], Fenced(at_the_end)
            arguments = fenced.fence(sample.arguments())
            with torch.no_grad():
                expected = tree_leaves(sample.operator(*arguments))
                with fenced, InTriton():
                    got = tree_leaves(sample.operator(*arguments))
                for ours, wanted in zip(got, expected, strict=True):
                    largest = wanted.abs().max() if wanted.numel() > 0 else 0
                    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-4 * float(largest))
    print("done")


if __name__ == "__main__":
    main()
