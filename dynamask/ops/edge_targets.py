import torch
from torch import Tensor

from dynamask.ops._check import FLOAT_DTYPES, check_dims


def edge_targets(masks: Tensor, union: bool = False) -> Tensor:
    """The inner contour of binary masks: what an edge head shall answer.

    Equal to thresholding the 3x3 Laplacian (8 in the middle, -1 around, zero padding) at 0.1, as
    RefineMask and DynaMask do: foreground with at least one of its 8 neighbours in the background.
    Outside of the mask is background, so an object cut by the border of its crop has an edge there.

    Args:
        masks: Binary masks [N, S, S] of uint8, bool or a floating dtype; what is not 0 is
            foreground.
        union: Also mark where the Laplacian at stride 2, upsampled to the nearest, is above 0.1.
            This is the target of the authors' code; it is thicker, and can be 1 pixel outside.

    Returns:
        The edges [N, S, S], 0 and 1 in the dtype of ``masks``. There is no gradient.

    Raises:
        TypeError: if the dtype does not fit.
        ValueError: if the shape does not fit.
    """
    op = "edge_targets"
    check_dims(op, "masks", masks, "N S S")
    if masks.dtype not in (torch.uint8, torch.bool, *FLOAT_DTYPES):
        raise TypeError(f"{op}: expected masks of uint8, bool or float, got {masks.dtype}")
    return torch.ops.dynamask.edge_targets(masks.detach(), union)


@torch.library.register_fake("dynamask::edge_targets")
def _(masks, union):
    return masks.new_empty(masks.shape)
