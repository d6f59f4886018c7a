from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dynamask.ops._check import check_dims, check_int, check_range, check_size


class Buckets(NamedTuple):
    """RoIs sorted by the mask size they need; see :func:`bucket_rois`."""

    order: Tensor
    inverse: Tensor
    counts: Tensor
    offsets: Tensor
    mask_sizes: Tensor
    mask_offsets: Tensor


def bucket_rois(state: Tensor, num_states: int, sizes: Sequence[int] = ()) -> Buckets:
    """Sorts RoIs by state, the largest first, so that every mask stage works on a prefix.

    The stages of a mask branch are cumulative: a RoI of state s passes stages 0..s. In this order
    the RoIs that stage s works on are ``order[:offsets[num_states - s]]``.

    Args:
        state: State of each RoI [N], an integer in [0, num_states).
        num_states: How many states there are, at least 1.
        sizes: Side of the masks of each state, if it is to be known where they lie.

    Returns:
        ``order`` [N] int64, the RoIs by descending state (stable); ``inverse`` [N] int64, the
        place of each RoI in it; ``counts`` [num_states] int64, RoIs per state; ``offsets``
        [num_states + 1] int64, where each bucket starts: bucket b holds state num_states - 1 - b.
        With ``sizes`` also ``mask_sizes`` [N] int64, the side of each RoI's mask, and
        ``mask_offsets`` [N + 1] int64, where each starts if they lie one after the other in the
        order of ``state``, and the end of the last: see :class:`RaggedMasks`. Else both are empty.

    Raises:
        TypeError: if ``state`` is not of an integer dtype.
        ValueError: if ``state`` is not [N], there are sizes but not one per state, or on the CPU a
            state is out of range; on a GPU such a RoI comes last and its mask has no size.
    """
    check_dims("bucket_rois", "state", state, "N")
    check_int("bucket_rois", "state", state)
    if num_states < 1:
        raise ValueError(f"bucket_rois: expected num_states >= 1, got {num_states}")
    check_range("bucket_rois", "state", state, num_states)
    if len(sizes) > 0:
        check_size("bucket_rois", "sizes", num_states, len(sizes))
    return Buckets(*torch.ops.dynamask.bucket_rois(state, num_states, sizes))


@torch.library.register_fake("dynamask::bucket_rois")
def _(state, num_states, sizes):
    n = state.shape[0]
    masks = (n, n + 1) if len(sizes) > 0 else (0, 0)
    return tuple(
        state.new_empty(size, dtype=torch.int64)
        for size in (n, n, num_states, num_states + 1, *masks)
    )
