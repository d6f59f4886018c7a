import torch
from torch import Tensor


def bucket_rois(state: Tensor, num_states: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    order = torch.argsort(state, descending=True, stable=True)  # [N]
    inverse = torch.argsort(order)  # [N]
    counts = torch.bincount(state, minlength=num_states)  # [K]
    offsets = torch.cat([counts.new_zeros(1), counts.flip(0).cumsum(0)])  # [K + 1]
    return order, inverse, counts, offsets
