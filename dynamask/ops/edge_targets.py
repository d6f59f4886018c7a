from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from dynamask.ops._check import FLOAT_DTYPES, check_device, check_dims

_DTYPES = frozenset((torch.uint8, torch.bool, *FLOAT_DTYPES))


@overload
def edge_targets(masks: Tensor, union: bool = False) -> Tensor: ...
@overload
def edge_targets(masks: Sequence[Tensor], union: bool = False) -> list[Tensor]: ...
def edge_targets(masks, union=False):
    """The inner contour of binary masks: what an edge head shall answer.

    Equal to thresholding the 3x3 Laplacian (8 in the middle, -1 around, zero padding) at 0.1, as
    RefineMask and DynaMask do: foreground with at least one of its 8 neighbours in the background.
    Outside of the mask is background, so an object cut by the border of its crop has an edge there.

    Args:
        masks: Binary masks [N, S, S] of uint8, bool or a floating dtype; what is not 0 is
            foreground. Or a list of those, as :func:`mask_targets` gives them.
        union: Also mark where the Laplacian at stride 2, upsampled to the nearest, is above 0.1.
            This is the target of the authors' code; it is thicker, and can be 1 pixel outside.

    Returns:
        The edges [N, S, S], 0 and 1 in the dtype of ``masks``; a list for a list. There is no
        gradient.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or device does not fit.
    """
    checked = _checked("edge_targets", masks)
    edges = torch.ops.dynamask.edge_targets.default(checked, union) if checked else []
    return edges[0] if isinstance(masks, Tensor) else edges


@overload
def block_targets(masks: Tensor, width: int = 2) -> Tensor: ...
@overload
def block_targets(masks: Sequence[Tensor], width: int = 2) -> list[Tensor]: ...
def block_targets(masks, width=2):
    """Masks in three blocks: background, a band along the contour, and the foreground within.

    RefineMask's ``generate_block_target``: a pixel is in the band if more than a tenth of the
    (2 width + 1)^2 pixels around it are unlike it, so the band is about ``width`` pixels wide to
    either side. Outside of the mask is background.

    Args:
        masks: Binary masks [N, S, S] of uint8, bool or a floating dtype; what is not 0 is
            foreground. Or a list of those.
        width: 1, 2 (a window of 5 x 5) or 3.

    Returns:
        The blocks [N, S, S] uint8: 0 background, 1 band, 2 foreground; a list for a list. There is
        no gradient.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape, a device or the width does not fit.
    """
    if not 1 <= width <= 3:
        raise ValueError(f"block_targets: expected width in [1, 3], got {width}")
    checked = _checked("block_targets", masks)
    blocks = torch.ops.dynamask.edge_targets_blocks.default(checked, width) if checked else []
    return blocks[0] if isinstance(masks, Tensor) else blocks


def _checked(op: str, masks: Tensor | Sequence[Tensor]) -> list[Tensor]:
    checked: list[Tensor] = []
    for of_size in (masks,) if isinstance(masks, Tensor) else masks:
        if of_size.dim() != 3:
            check_dims(op, "masks", of_size, "N S S")
        if of_size.dtype not in _DTYPES:
            raise TypeError(f"{op}: expected masks of uint8, bool or float, got {of_size.dtype}")
        check_device(op, (checked or [of_size])[0].device, masks=of_size)
        checked.append(of_size.detach() if of_size.requires_grad else of_size)
    return checked


@torch.library.register_fake("dynamask::edge_targets")
def _(masks, union):
    return [of_size.new_empty(of_size.shape) for of_size in masks]


@torch.library.register_fake("dynamask::edge_targets_blocks")
def _(masks, width):
    return [of_size.new_empty(of_size.shape, dtype=torch.uint8) for of_size in masks]
