"""Multiply-accumulates: the numbers of the papers, counted by hooks on what was built."""

import pytest
import torch
from torch import nn

from dynamask.models.dynamic_mask_head import DynamicMaskHead
from dynamask.models.macs import count_macs, measure_mask_macs
from dynamask.models.mask_rcnn_head import MaskRCNNHead
from dynamask.models.selector import MaskSwitch
from dynamask.ops import DeformConv2d

PAPER = (0.23, 0.62, 1.01, 1.40)
DESIGN = (0.2312, 0.6190, 1.0067, 1.3945)
# Tables 8 and 9: shares of tiny, small, medium and large masks, and the mean GMACs printed beside
TABLES_8_9 = [
    ((0.47, 0.32, 0.14, 0.08), 0.56),
    ((0.05, 0.13, 0.25, 0.56), 1.13),
    ((0.35, 0.34, 0.21, 0.10), 0.64),
]
# Table 5: mean GMACs, and what that saves of a large mask
TABLE_5 = [(1.27, 9), (1.13, 19), (1.06, 24), (0.92, 34), (0.83, 41), (0.64, 54)]


def gmacs(module, *inputs):
    with torch.no_grad(), count_macs(module) as count:
        module(*inputs)
    return count.total / 1e9


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Conv2d(3, 5, 3, padding=1), (2, 3, 4, 4), 2 * 16 * 3 * 5 * 9),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (1, 4, 4, 4), 4 * 2 * 6 * 9),
        (nn.ConvTranspose2d(3, 5, 2, 2), (2, 3, 4, 4), 2 * 16 * 3 * 5 * 4),
        (nn.Linear(7, 3), (2, 7), 2 * 7 * 3),
        (nn.Sequential(nn.Linear(7, 3), nn.ReLU(), nn.Linear(3, 2)), (2, 7), 2 * (21 + 6)),
    ],
)
def test_by_hand(module, shape, macs):
    with count_macs(module) as count:
        module(torch.randn(shape))
    assert count.total == macs


def test_deformable_convolution_counts_as_a_dense_one():
    module = DeformConv2d(4, 6, 3, padding=1, bias=False)
    with count_macs(module) as count:
        module(torch.randn(2, 4, 5, 5), torch.zeros(2, 18, 5, 5))
    assert count.total == 2 * 25 * 4 * 6 * 9


def test_hooks_leave_with_the_block():
    module = nn.Linear(3, 3)
    with count_macs(module) as count:
        pass
    module(torch.randn(1, 3))
    assert count.total == 0
    assert not module._forward_hooks


def test_mask_costs_of_the_paper():
    head = DynamicMaskHead(80)
    measured = [macs / 1e9 for macs in measure_mask_macs(head)]
    assert head.costs == pytest.approx(measured)
    assert measured == pytest.approx(DESIGN, rel=0.005)
    assert measured == pytest.approx(PAPER, rel=0.03)
    assert head.training
    assert head.selector.mode == "dynamic"


@pytest.mark.parametrize("channels", [8, 64, 96, 200])
def test_costs_of_any_width_are_what_runs(channels):
    head = DynamicMaskHead(3, 16, channels)
    assert head.costs == pytest.approx([macs / 1e9 for macs in measure_mask_macs(head)])


def test_every_stage_costs_the_same():
    head = DynamicMaskHead(80)
    parts = {
        "reduce": 6.423,
        "project_crop": 12.845,
        "offset1": 130.056,
        "align": 115.606,
        "offset2": 7.225,
        "attend": 115.606,
    }
    for stage, size in zip(head.pyramid.stages, (14, 28, 56)):
        x = torch.randn(1, stage.reduce.in_channels, size, size)
        level = torch.zeros(1, stage.reduce.out_channels, 8, 8)
        with torch.no_grad(), count_macs(stage) as count:
            stage(x, level, torch.tensor([[0.0, 2.0, 2.0, 30.0, 30.0]]))
        assert count.total / 1e6 == pytest.approx(sum(parts.values()), abs=5e-3)
        assert count.total == stage.macs(size)


@pytest.mark.parametrize(
    ("size", "squeeze", "macs"),
    [(14, True, 7.5e6), (28, True, 29.7e6), (56, True, 118.8e6), (56, False, 118.8e6)],
)
def test_switch_costs_next_to_nothing(size, squeeze, macs):
    switch = MaskSwitch(256, size, squeeze=squeeze).eval()
    assert gmacs(switch, torch.randn(1, 256, size, size)) * 1e9 == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize(("size", "expected"), [(28, 0.530), (56, 2.119), (112, 8.478)])
def test_mask_rcnn_costs(size, expected):
    [measured] = measure_mask_macs(MaskRCNNHead(256, 80, size=size))
    # the papers count the logits of all 80 classes, this head computes those of one
    of_the_others = 79 * 256 * size * size
    assert (measured + of_the_others) / 1e9 == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(("shares", "expected"), TABLES_8_9)
def test_shares_of_sizes_give_the_printed_means(shares, expected):
    assert sum(s * c for s, c in zip(shares, PAPER)) == pytest.approx(expected, abs=0.005)
    assert sum(s * c for s, c in zip(shares, DynamicMaskHead(80).costs)) == pytest.approx(
        expected, rel=0.01
    )


@pytest.mark.parametrize(("mean", "saving"), TABLE_5)
def test_savings_are_against_all_large(mean, saving):
    assert round(100 * (1 - mean / PAPER[-1])) == saving
