"""Multiply-accumulates (MACs), counted while a module runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dynamask.models.instances import Instances
from dynamask.ops import DeformConv2d


class MacCount:
    """MACs by module name, filled by :func:`count_macs`."""

    def __init__(self) -> None:
        self.by_module: dict[str, int] = {}

    @property
    def total(self) -> int:
        return sum(self.by_module.values())

    def add(self, name: str, macs: int) -> None:
        self.by_module[name] = self.by_module.get(name, 0) + macs


def _macs_of_call(module: nn.Module, inputs: tuple, output: Tensor) -> int | None:
    """MACs of one call, None for a module that only reads, adds or compares."""
    counted = getattr(module, "count_macs", None)
    if counted is not None:
        return counted(*inputs)
    if isinstance(module, nn.ConvTranspose2d):
        at = inputs[0]
        return at.shape[0] * at.shape[2] * at.shape[3] * module.weight.numel()
    if isinstance(module, nn.Conv2d | DeformConv2d):
        return output.shape[0] * output.shape[2] * output.shape[3] * module.weight.numel()
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    return None


@contextmanager
def count_macs(module: nn.Module, skip: Iterable[nn.Module] = ()) -> Iterator[MacCount]:
    """Counts the MACs of every call inside the block, by forward hooks.

    Convolutions (transposed ones too), deformable convolutions and linear layers count, as does
    any module with a method ``count_macs(*inputs) -> int``. A deformable convolution counts as the
    dense one: sampling, as RoIAlign, resizing and activations everywhere, is free.

    Args:
        module: What runs inside the block.
        skip: Modules inside ``module`` not to count, with all they contain.

    Yields:
        The count, complete when the block ends.
    """
    skipped = {id(inner) for outer in skip for inner in outer.modules()}
    count = MacCount()

    def hook_for(name: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            macs = _macs_of_call(module, inputs, output)
            if macs is not None:
                count.add(name, macs)

        return hook

    hooks = [
        inner.register_forward_hook(hook_for(name))
        for name, inner in module.named_modules()
        if id(inner) not in skipped
    ]
    try:
        yield count
    finally:
        for hook in hooks:
            hook.remove()


def measure_mask_macs(head: Any) -> list[int]:
    """Runs a mask branch on one box once per mask size it has, and counts.

    What runs once per image (projections of whole pyramid levels) and the switch are not counted,
    as in the paper: ``head.uncounted_modules()`` names them.

    Args:
        head: A mask branch with ``in_channels``; with a ``selector`` it has several mask sizes.

    Returns:
        MACs of one mask of each size.
    """
    parameter = next(head.parameters())
    sizes = (64, 32, 16, 8, 4)  # a pyramid of 256 x 256 pixels
    features = [parameter.new_zeros(1, head.in_channels, s, s) for s in sizes]
    box = parameter.new_tensor([[16.0, 16.0, 144.0, 144.0]])
    zero = torch.zeros(1, dtype=torch.int64, device=parameter.device)
    instances = Instances(box, zero, zero)
    skip = head.uncounted_modules() if hasattr(head, "uncounted_modules") else ()
    was_training, selector = head.training, getattr(head, "selector", None)
    mode = None if selector is None else selector.mode
    macs = []
    try:
        head.eval()
        for k in range(1 if selector is None else len(head.sizes)):
            if selector is not None:
                selector.mode = f"fixed={k}"
            with torch.no_grad(), count_macs(head, skip) as count:
                head(head.context(features, [(256, 256)]), instances)
            macs.append(count.total)
    finally:
        head.train(was_training)
        if selector is not None:
            selector.mode = mode
    return macs
