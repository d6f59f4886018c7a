from collections.abc import Sequence

import torch
from torch import Tensor


def bucket_rois(state: Tensor, num_states: int, sizes: Sequence[int] = ()) -> tuple[Tensor, ...]:
    order = torch.argsort(state, descending=True, stable=True)  # [N]
    inverse = torch.argsort(order)  # [N]
    counts = torch.bincount(state, minlength=num_states)  # [K]
    offsets = torch.cat([counts.new_zeros(1), counts.flip(0).cumsum(0)])  # [K + 1]
    if len(sizes) == 0:
        return order, inverse, counts, offsets, counts[:0], counts[:0]
    mask_sizes = torch.tensor(sizes, device=state.device)[state.long()]  # [N]
    mask_offsets = torch.cat([counts.new_zeros(1), (mask_sizes * mask_sizes).cumsum(0)])  # [N + 1]
    return order, inverse, counts, offsets, mask_sizes, mask_offsets
