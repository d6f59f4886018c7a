"""The losses of the mask branch: DynaMask's equations 3 to 7. All are means over RoIs, in fp32."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamask.ops.mask_edge_loss import mask_edge_loss

SIZE_WEIGHTS = (0.5, 0.75, 0.75, 1.0)


def bce_of_all_sizes(
    masks: Sequence[Tensor],
    mask_targets: Sequence[Tensor],
    edges: Sequence[Tensor],
    edge_targets: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Binary cross entropy of each RoI's mask and edge at each mask size, twice [N, K].

    Each argument has a tensor [N, S, S] per size; the first and the third are logits.
    """
    of_masks, of_edges = mask_edge_loss(masks, mask_targets, edges, edge_targets)
    assert of_edges is not None
    return of_masks, of_edges


def weighted_by_size(mask_bce: Tensor) -> Tensor:
    """Every RoI at every mask size [N, K], N >= 1, the larger sizes weighing more."""
    return (mask_bce.mean(0) * _numbers(SIZE_WEIGHTS, mask_bce)).sum()


def every_size_loss(mask_bce: Tensor, edge_bce: Tensor, lambda1: float) -> dict[str, Tensor]:
    """Phase one: every RoI trains every mask size; there is no switch.

    Args:
        mask_bce: Of the masks [N, K], N >= 1.
        edge_bce: Of the edges [N, K].
        lambda1: Weight of the edges.
    """
    return {
        "mask": weighted_by_size(mask_bce),
        "edge": lambda1 * edge_bce.mean(0).sum(),
    }


def chosen_size_loss(
    mask_bce: Tensor, edge_bce: Tensor, choice: Tensor, lambda1: float
) -> dict[str, Tensor]:
    """Phase two, equations 3 and 4: each RoI trains the mask size chosen for it.

    The gradient of the choice is the loss of every size, so the switch learns what each would cost.

    Args:
        mask_bce: Of the masks [N, K], N >= 1.
        edge_bce: Of the edges [N, K].
        choice: One-hot rows [N, K].
        lambda1: Weight of the edges.
    """
    return {
        "mask": (choice * mask_bce).sum(1).mean(),
        "edge": lambda1 * (choice * edge_bce).sum(1).mean(),
    }


def expected_cost(choice: Tensor, costs: Sequence[float]) -> Tensor:
    """Mean cost of a mask, in the unit of ``costs`` [K], for the rows of ``choice`` [N, K]."""
    return (choice * _numbers(costs, choice)).sum(1).mean()


def budget_loss(
    choice: Tensor, costs: Sequence[float], budget: float, form: str = "paper"
) -> Tensor:
    """What the mean mask costs beyond the budget; zero, with zero gradient, within it (eq. 5).

    Args:
        choice: One-hot rows [N, K], N >= 1.
        costs: Of a mask of each size [K], rising.
        budget: Mean cost allowed, in the unit of ``costs``.
        form: ``"paper"``: ``max(E / budget - 1, 0)``; ``"code"``, as in the authors' code:
            ``max((E - budget) / (costs[-1] - costs[0]), 0)``.
    """
    mean = expected_cost(choice, costs)
    if form == "paper":
        return F.relu(mean / budget - 1)
    if form == "code":
        return F.relu((mean - budget) / (costs[-1] - costs[0]))
    raise ValueError(f"budget_loss: expected form 'paper' or 'code', got {form!r}")


def entropy_loss(probabilities: Tensor) -> Tensor:
    """Keeps every mask size in use (eq. 6): ``sum f log f / K`` of the mean probabilities f.

    Args:
        probabilities: Of every size [N, K], N >= 1.

    Returns:
        A number from -log(K) / K, all sizes alike, to 0, one size for all.
    """
    frequency = probabilities.mean(0)
    return (frequency * torch.log(frequency + 1e-10)).mean()


def _numbers(values: Sequence[float], like: Tensor) -> Tensor:
    """[K] on the device of ``like``, made there: a copy from the host would wait for the device."""
    return torch.stack([like.new_full((), value) for value in values])
