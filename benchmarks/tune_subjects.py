"""What `tune.py` times: Triton kernels at the shapes that matter, candidates for their tables."""

import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamask.kernels.deform_conv2d import INTERPRETED
from dynamask.ops import bucket_rois

BF16, FP32 = torch.bfloat16, torch.float32
Sizes = dict[str, int]


class Subject(NamedTuple):
    """A kernel at a shape.

    Attributes:
        function: Of a module of `kernels/`, what is called and timed.
        table: The function of the module that returns block sizes; None if they are its numbers.
        make: The arguments.
        candidates: What to replace: a number of the module where it has that name, else in the
            table's entry, where there it has that name.
        module: If it is not named like the function.
        options: More arguments.
        tolerance: How much results may differ, as a share of the largest value.
    """

    function: str
    table: str | None
    make: Callable[[], tuple]
    candidates: Sequence[Sizes]
    module: str | None = None
    options: Sequence[tuple[str, Any]] = ()
    tolerance: float = 0.02

    @property
    def home(self) -> ModuleType:
        return importlib.import_module(f"dynamask.kernels.{self.module or self.function}")


def product(tiles: Sequence[tuple[int, int]] = (), **options: Sequence[int]) -> list[Sizes]:
    """Every combination of options, and of tiles (PIXELS, num_warps) if there are any."""
    pairs = [{"PIXELS": p, "num_warps": w} for p, w in tiles] or [{}]
    values = itertools.product(pairs, *options.values())
    return [{**pair, **dict(zip(options, rest))} for pair, *rest in values]


def sized(count: int, channels: int, side: int) -> tuple[int, int, int]:
    return (1, 16, 4) if INTERPRETED else (count, channels, side)


def rows(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.randn(shape).to(dtype).to(memory_format=torch.channels_last)


def deform(channels, side, groups, dtype, part=None) -> tuple:
    n, channels, side = sized(100, channels, side)
    x, offset = rows(n, channels, side, side, dtype=dtype), torch.randn(n, 18 * groups, side, side)
    weight = (torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5).to(dtype)
    read = x, offset, weight
    numbers, data = ([1, 1], [1, 1], [1, 1]), part == "data"
    if part is None:
        return *read, None, *numbers, None
    return torch.randn_like(x), *read, None, *numbers, data, data, not data, False, False


def convolution(channels, side, outs, kernel) -> tuple:
    n, channels, side = sized(100, channels, side)
    weight, bias = rows(outs, channels, kernel, kernel), torch.randn(outs).to(BF16)
    return torch.randn(n, side, side, channels).to(BF16), weight, bias, None


def pair(channels, side, stride) -> tuple:
    n, channels, side = sized(100, channels, side)
    low, level = torch.randn(n, side, side, channels), torch.randn(1, 800 // stride, 168, channels)
    corner = torch.rand(n, 2) * 500
    boxes = torch.cat([torch.zeros(n, 1), corner, corner + 20 + torch.rand(n, 2) * 250], 1)
    weight, bias = rows(channels, channels, 1, 1), torch.zeros(channels).to(BF16)
    return low.to(BF16), level.to(BF16), boxes, 1 / stride, weight, bias, None


def exits(channels) -> tuple:
    """Masks of 35, 34, 21 and 10 % of the RoIs, at four sizes."""
    n, channels, side = sized(100, channels, 14)
    sizes, classes = [side << k for k in range(4)], (80, 80, 80, 1)
    state = (torch.rand(n)[:, None] > torch.tensor([0.35, 0.69, 0.9])).sum(1)
    order, *_, starts = bucket_rois(state, 4, sizes)
    features = [rows(n, channels >> k, s, s) for k, s in enumerate(sizes)]
    weights = [torch.randn(c, f.shape[1]).to(BF16) for c, f in zip(classes, features)]
    biases = [torch.randn(c).to(BF16) for c in classes]
    return features, weights, biases, torch.randint(80, (n,)), state, order, starts


def losses(backward) -> tuple:
    n, _, side = sized(128, 1, 14)
    logits = [torch.randn(n, side << k, side << k).to(BF16) for k in range(4)]
    if backward:
        return [torch.rand(n) for _ in range(8)], [*logits, *logits], None, [0] * 8
    targets = [(x > 0).byte() for x in logits]
    return logits, targets, logits, targets, None, True, True


def own_classes(channels, side) -> tuple:
    n, channels, side = sized(100, channels, side)
    weight, bias = torch.randn(80, channels).to(BF16), torch.randn(80).to(BF16)
    return rows(n, channels, side, side), weight, bias, torch.randint(80, (n,))


def subjects() -> Iterator[tuple[str, Subject]]:
    """Names and subjects, what matters most first."""
    squares = (256, 14), (128, 28), (64, 56), (32, 112)  # channels and side
    tiles = (32, 4), (64, 4), (64, 8), (128, 4), (128, 8), (128, 16), (256, 8)
    few = (32, 4), (64, 4), (64, 8), (128, 8)
    for c, s, g in (*((c, s, 1) for c, s in squares), (128, 28, 4), (64, 56, 2)):
        sizes = product(tiles, CHANNELS=(32, 64), num_stages=(1, 2, 3, 4))
        sizes = [x for x in sizes if x["CHANNELS"] <= max(32, c // g)]
        make = partial(deform, c, s, g, BF16)
        yield f"deform_conv2d {c}@{s} G={g}", Subject("deform_conv2d", "block_sizes", make, sizes)
    data = product(few, CHANNELS=(16, 32, 64), num_stages=(1, 2))
    weight = product(few, CHANNELS=(32, 64), num_stages=(2, 3))
    weight += product(WEIGHT_PROGRAMS=(264, 528, 1056))
    for (c, s), (part, sizes) in itertools.product(squares, (("data", data), ("weight", weight))):
        make, table = partial(deform, c, s, 1, BF16, part), f"{part}_block_sizes"
        subject = Subject("deform_conv2d_backward", table, make, sizes)
        yield f"deform_conv2d_backward of {part} {c}@{s}", subject
    home = "feature_aggregation"
    for (c, s), stride in zip(squares, (16, 8, 4)):
        offsets = 18 * max(1, c // 64)
        sizes = product(tiles[1:], CHANNELS=(32, 64), OUTS=(32, 64), num_stages=(1, 2, 3))
        of_3x3 = "3x3 to offsets", partial(convolution, c, 2 * s, offsets, 3), True, sizes
        sizes = product(tiles[1:5], CHANNELS=(32, 64), OUTS=(64, 128), num_stages=(2, 3))
        of_1x1 = "1x1", partial(convolution, c, s, c // 2, 1), False, sizes
        for name, make, to_offsets, sizes in (of_3x3, of_1x1):
            options = (("to_offsets", to_offsets),)
            yield (
                f"{home} {c}@{s}, {name}",
                Subject("conv2d", "conv2d_sizes", make, sizes, home, options),
            )
        sizes = product(few, CHANNELS=(32, 64), OUTS=(64, 128), num_stages=(1, 2))
        make = partial(pair, c // 2, s, stride)
        yield f"{home} {c}@{s}, pair", Subject("aggregate_pair", "pair_sizes", make, sizes, home)
    sizes = product(NUMBERS=(2048, 4096, 8192), PROGRAMS_PER_ROI=(8, 16, 32, 64))
    for c in (256, 64):
        subject = Subject("grouped_mask_head", None, partial(exits, c), sizes)
        yield f"grouped_mask_head {c} channels", subject
    sizes = product(MAX_BLOCK=(1024, 2048, 4096), PIXELS_PER_WARP=(128, 256, 512))
    for name in ("mask_edge_loss", "mask_edge_loss_backward"):
        make = partial(losses, name != "mask_edge_loss")
        yield f"{name} 14 to 112", Subject(name, None, make, sizes, "mask_edge_loss")
    sizes = product(CHANNELS=(16, 32, 64), PIXELS=(32, 64, 128, 256))
    for c, s in squares[:3]:
        yield (
            f"class_logits {c}@{s}",
            Subject("class_logits", None, partial(own_classes, c, s), sizes),
        )
    sizes = product(few, OUT=(64, 128))
    for c, s in (squares[0], squares[2]):  # mostly to see whether CUDA C++ is faster
        make = partial(deform, c, s, 1, FP32)
        subject = Subject("deform_conv2d", "block_sizes", make, sizes, tolerance=1e-4)
        yield f"deform_conv2d {c}@{s} fp32", subject


SUBJECTS = dict(subjects())
