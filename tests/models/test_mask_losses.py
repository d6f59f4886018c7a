"""The losses of the mask branch, equations 3 to 7, and the targets they compare with."""

import math

import pytest
import torch
import torch.nn.functional as F

from dynamask.models.mask_losses import (
    bce_of_all_sizes,
    budget_loss,
    chosen_size_loss,
    entropy_loss,
    every_size_loss,
    expected_cost,
)
from dynamask.ops import Polygons, edge_targets, mask_targets

COSTS = (0.23, 0.62, 1.01, 1.40)
SIZES = (14, 28, 56, 112)


def one_hot(*states):
    return F.one_hot(torch.tensor(states), 4).float().requires_grad_()


def test_cross_entropy_is_a_mean_over_pixels():
    logits = [torch.full((2, s, s), 0.0) for s in SIZES]
    targets = [torch.ones(2, s, s, dtype=torch.uint8) for s in SIZES]
    logits[1][0] = 30.0
    masks, edges = bce_of_all_sizes(logits, targets, logits[::-1], targets[::-1])
    expected = torch.full((2, 4), math.log(2))
    expected[0, 1] = 0
    torch.testing.assert_close(masks, expected)
    torch.testing.assert_close(edges, expected.flip(1))


def test_phase_one_by_hand():
    mask = torch.tensor([[1.0, 2, 3, 4], [3, 4, 5, 6]])
    losses = every_size_loss(mask, torch.ones(2, 4), lambda1=0.1)
    assert losses["mask"].item() == pytest.approx(0.5 * 2 + 0.75 * 3 + 0.75 * 4 + 1.0 * 5)
    assert losses["edge"].item() == pytest.approx(0.4)


def test_phase_two_by_hand():
    mask, edge = torch.arange(8.0).view(2, 4), torch.arange(8.0, 16.0).view(2, 4)
    choice = one_hot(2, 0)
    losses = chosen_size_loss(mask, edge, choice, lambda1=0.1)
    assert losses["mask"].item() == pytest.approx((2 + 4) / 2)
    assert losses["edge"].item() == pytest.approx(0.1 * (10 + 12) / 2)
    losses["mask"].backward()
    torch.testing.assert_close(choice.grad, mask / 2)  # the switch sees what every size would cost


@pytest.mark.parametrize("form", ["paper", "code"])
def test_within_the_budget_nothing_pushes(form):
    choice = one_hot(0, 1, 2)
    loss = budget_loss(choice, COSTS, 1.0, form)
    loss.backward()
    assert loss.item() == 0
    assert not choice.grad.any()


@pytest.mark.parametrize(
    ("form", "expected"), [("paper", 1.40 / 1.0 - 1), ("code", (1.40 - 1.0) / (1.40 - 0.23))]
)
def test_beyond_the_budget_larger_masks_are_pushed_harder(form, expected):
    choice = one_hot(3, 3)
    loss = budget_loss(choice, COSTS, 1.0, form)
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    assert (choice.grad > 0).all()
    assert (choice.grad.diff(dim=1) > 0).all()


def test_budget_says_what_is_wrong():
    with pytest.raises(ValueError, match="expected form 'paper' or 'code', got 'soft'"):
        budget_loss(one_hot(0), COSTS, 1.0, "soft")


def test_uniform_choice_costs_the_mean():
    assert expected_cost(one_hot(0, 1, 2, 3), COSTS).item() == pytest.approx(0.815)


def test_entropy_is_least_when_all_sizes_are_alike():
    uniform = torch.full((5, 4), 0.25)
    assert entropy_loss(uniform).item() == pytest.approx(-0.3466, abs=1e-4)
    assert entropy_loss(torch.eye(4)).item() == pytest.approx(-math.log(4) / 4)
    assert entropy_loss(one_hot(2, 2)).item() == pytest.approx(0, abs=1e-6)
    for _ in range(20):
        assert entropy_loss(torch.randn(3, 4).softmax(1)) > entropy_loss(uniform)


def stars(count=12):
    """Star-shaped outlines of rising wiggliness, each in a box of 112 x 112 pixels."""
    angle = torch.linspace(0, 2 * math.pi, 241)[:-1]
    rings = []
    for n in range(count):
        radius = 40 * (1 + 0.03 * n * torch.sin((3 + n // 2) * angle)) / (1 + 0.03 * n)
        ring = torch.stack([56 + radius * angle.cos(), 56 + radius * angle.sin()], 1)
        rings.append([ring.flatten().tolist()])
    boxes = torch.tensor([[8.0, 8.0, 104.0, 104.0]]).expand(count, 4)
    return mask_targets(Polygons.of(rings), boxes, torch.arange(count), SIZES)


def test_edges_are_inside_and_one_cell_wide():
    for mask in stars():
        edge = edge_targets(mask)
        assert not (edge & ~mask & 1).any()
        core = mask - edge
        beside_background = F.max_pool2d(1 - mask[:, None].float(), 3, 1, 1)[:, 0].bool()
        assert not (core.bool() & beside_background).any()


def test_edges_thin_out_as_sizes_grow():
    share = [edge_targets(mask)[0].float().mean().item() * s for mask, s in zip(stars(1), SIZES)]
    assert share == pytest.approx([share[-1]] * 4, rel=0.15)


def test_the_authors_edges_contain_ours():
    for mask in stars():
        thin, thick = edge_targets(mask), edge_targets(mask, True)
        assert ((thick & thin) == thin).all()
        assert thick.sum() >= thin.sum()


def known_to_a_cell(target):
    """The logits of a prediction that places everything right but for a cell around it."""
    return F.avg_pool2d(target[:, None].float(), 3, 1, 1)[:, 0].clamp(1e-3, 1 - 1e-3).logit()


def test_edge_loss_tells_sizes_apart_better_than_mask_loss():
    """What the paper's Figure 5 shows, and why the switch learns from edges."""
    masks = stars()
    edges = [edge_targets(mask) for mask in masks]
    mask_logits, edge_logits = (
        [known_to_a_cell(target) for target in targets] for targets in (masks, edges)
    )
    mask_loss, edge_loss = bce_of_all_sizes(mask_logits, masks, edge_logits, edges)
    spread = [loss.amax(1) - loss.amin(1) for loss in (mask_loss, edge_loss)]
    assert (spread[1] > spread[0]).all()
    assert (edge_loss.diff(dim=1) < 0).all()  # the larger the mask, the smaller
