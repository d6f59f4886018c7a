"""A switch alone, learning when small masks are enough: the trade of DynaMask's Table 5.

RoIs have a difficulty; a mask of each size has an edge loss that grows with it, the more the
smaller the mask. The selection and the losses are the library's own.
"""

import pytest
import torch
from torch import nn

from dynamask.models.mask_losses import budget_loss, chosen_size_loss, entropy_loss, expected_cost
from dynamask.models.selector import straight_through

COSTS = (0.23, 0.62, 1.01, 1.40)
TABLE_5 = [(1.0, 0.3), (1.0, 0.4), (1.0, 0.5), (0.8, 0.4), (0.6, 0.4), (0.4, 0.4)]


def losses_of_all_sizes(difficulty):
    return 3 * (0.1 + difficulty[:, None] * torch.tensor([1.0, 0.5, 0.25, 0.125]))


def train_switch(budget, lambda2, steps=1000, batch=512):
    """Returns the mean cost, and how far the chosen sizes follow the difficulty."""
    torch.manual_seed(0)
    switch = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(switch.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        difficulty = torch.rand(batch)
        logits = switch(torch.stack([difficulty * 2 - 1, torch.randn(batch)], 1))
        choice = straight_through(logits)
        edges = losses_of_all_sizes(difficulty)
        loss = chosen_size_loss(torch.zeros_like(edges), edges, choice, 0.1)["edge"]
        over = budget_loss(choice, COSTS, budget)
        loss = loss + lambda2 * (over + entropy_loss(logits.softmax(1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    difficulty = torch.linspace(0, 1, 1001)
    with torch.no_grad():
        state = switch(torch.stack([difficulty * 2 - 1, torch.zeros(1001)], 1)).argmax(1)
    cost = expected_cost(nn.functional.one_hot(state, 4).float(), COSTS).item()
    return cost, torch.corrcoef(torch.stack([difficulty, state.float()]))[0, 1].item()


def test_a_tighter_budget_gives_cheaper_masks_to_the_easier_rois():
    costs, correlations = zip(*(train_switch(*row) for row in TABLE_5))
    assert list(costs) == sorted(costs, reverse=True), costs
    assert costs[0] - costs[-1] > 0.4
    assert min(correlations) > 0.8, correlations


def test_without_budget_and_entropy_all_masks_are_large():
    cost, _ = train_switch(1.0, 0.0)
    assert cost == pytest.approx(1.40)
