from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_edge_loss(
    mask_logits: Tensor | Sequence[Tensor],
    mask_targets: Tensor | Sequence[Tensor],
    edge_logits: Tensor | Sequence[Tensor] | None = None,
    edge_targets: Tensor | Sequence[Tensor] | None = None,
    *,
    labels: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    def loss(logits, targets):
        if not isinstance(logits, Tensor):
            return torch.stack([loss(*of_size) for of_size in zip(logits, targets)], 1)
        if logits.dim() == 4:
            n, k = logits.shape[:2]
            rows = torch.arange(n, device=logits.device)
            logits = logits[rows, 0 if k == 1 or labels is None else labels.long()]
        if logits.dtype != torch.float64:
            logits = logits.float()
        each = F.binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="none")
        mean = each.mean((1, 2))
        return mean if weights is None else mean * weights

    edge = None
    if edge_logits is not None and edge_targets is not None:
        edge = loss(edge_logits, edge_targets)
    return loss(mask_logits, mask_targets), edge
