"""How each RoI comes to its mask size."""

import pytest
import torch

from dynamask.models.instances import Instances
from dynamask.models.selector import MaskSwitch, Selector, states_by_box_size, straight_through

SIZES = (14, 28, 56, 112)


def a_selector(**options):
    return Selector(SIZES, 32, 14, **options)


def boxes_of_side(*sides):
    corners = torch.tensor([[2.0, 3.0, 2.0 + side, 3.0 + side] for side in sides])
    zero = torch.zeros(len(sides), dtype=torch.int64)
    return Instances(corners, zero, zero)


def test_choice_is_one_of_the_sizes():
    choice = straight_through(torch.randn(50, 4, requires_grad=True))
    torch.testing.assert_close(choice.detach().round(), choice.detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(choice.sum(1), torch.ones(50))


def test_gradient_is_the_jacobian_of_the_relaxed_choice():
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    choice = straight_through(logits, temperature=0.5)
    grad = torch.randn_like(choice)
    choice.backward(grad)

    torch.manual_seed(1)
    uniform = torch.rand_like(logits)
    noise = -torch.log(-torch.log(uniform))
    soft = torch.softmax((logits.detach() + noise) / 0.5, 1)
    jacobian = (torch.diag_embed(soft) - soft[:, :, None] * soft[:, None, :]) / 0.5
    torch.testing.assert_close(logits.grad, torch.einsum("nk,nkj->nj", grad, jacobian))


def test_sizes_are_drawn_by_their_probabilities():
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    drawn = straight_through(logits.expand(40000, 4)).mean(0)
    torch.testing.assert_close(drawn, logits.softmax(0), atol=0.01, rtol=0)


def test_noise_in_training_alone():
    selector, instances = a_selector(), boxes_of_side(*range(1, 65))
    features, areas = torch.randn(64, 32, 14, 14), torch.tensor([1e4])
    drawn = [selector(instances, areas, features) for _ in range(4)]
    assert len({tuple(selection.state.tolist()) for selection in drawn}) == 4
    for selection in drawn:
        assert torch.equal(selection.choice.argmax(1), selection.state)
    selector.switch.eval()  # the norms give what they gave
    probabilities = selector(instances, areas, features).probabilities
    torch.testing.assert_close(probabilities, selector.switch(features).softmax(1))
    selector.eval()
    with torch.no_grad():
        chosen = selector(instances, areas, features)
        assert torch.equal(chosen.state, selector.switch(features).argmax(1))
        assert chosen.choice is None
        assert chosen.probabilities is None


@pytest.mark.parametrize("size", [14, 28, 56])
@pytest.mark.parametrize("squeeze", [True, False])
def test_switch_reads_any_of_its_inputs(size, squeeze):
    switch = MaskSwitch(32, size, squeeze=squeeze)
    assert switch(torch.randn(1, 32, size, size)).shape == (1, 4)
    assert switch.eval()(torch.randn(0, 32, size, size)).shape == (0, 4)
    assert (switch.squeeze is not None) == squeeze


@pytest.mark.parametrize(
    ("mode", "states"), [("fixed=0", [0, 0]), ("fixed=2", [2, 2]), ("fixed=112", [3, 3])]
)
def test_fixed_sizes(mode, states):
    selection = a_selector(mode=mode)(boxes_of_side(5, 50), torch.tensor([1e4]), None)
    assert selection.state.tolist() == states
    assert selection.choice.argmax(1).tolist() == states
    assert selection.probabilities is None


@pytest.mark.parametrize(
    ("rounding", "states"),
    [("ceil", [0, 0, 1, 2, 3, 3, 3]), ("floor", [0, 0, 0, 1, 2, 2, 3])],
)
def test_size_rule_by_hand(rounding, states):
    """An image of 100 x 100: one size less at every half of its side."""
    boxes = boxes_of_side(0, 12, 24, 49, 51, 99, 100).boxes
    areas = torch.full((7,), 1e4)
    assert states_by_box_size(boxes, areas, rounding=rounding).tolist() == states


def test_size_rule_goes_by_each_image():
    selector, instances = a_selector(mode="size"), boxes_of_side(60, 60)
    instances.batch[1] = 1
    selection = selector(instances, torch.tensor([100.0**2, 400.0**2]), None)
    assert selection.state.tolist() == [3, 1]


def test_size_rule_of_boxes_that_are_none():
    boxes = torch.tensor([[0.0, 0, float("nan"), 9], [5, 5, 5, 5], [9, 9, 2, 4], [9, 9, 2, 12]])
    assert states_by_box_size(boxes, torch.full((4,), 1e4)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("mode", ["fixed", "fixed=4", "fixed=-1", "fixed=x", "largest", ""])
def test_says_which_modes_there_are(mode):
    selector = a_selector()
    with pytest.raises(ValueError, match=f"Selector: expected mode 'dynamic'.*got '{mode}'"):
        selector.mode = mode
    assert selector.mode == "dynamic"


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match="expected rounding 'ceil' or 'floor', got 'up'"):
        a_selector(rounding="up")
    with pytest.raises(ValueError, match="expected RoI features in mode 'dynamic', got None"):
        a_selector()(boxes_of_side(5), torch.tensor([1e4]), None)
