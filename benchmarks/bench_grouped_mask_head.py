"""Masks of the sizes asked for against all stages and exits for all RoIs, then picking."""

import pytest
import torch

from dynamask.benchmarks.harness import Case
from dynamask.ops import (
    FeatureAggregationWeights,
    class_logits,
    feature_aggregation,
    grouped_mask_head,
)

SIZES, STRIDES, CLASSES = (14, 28, 56, 112), (16, 8, 4), 80
HEIGHT, WIDTH = 800, 1333
SHARES = (0.35, 0.34, 0.21, 0.10)  # the paper's Table 9 for a budget of 0.4


def arguments(count: int, channels: int, dtype: torch.dtype) -> tuple:
    torch.manual_seed(0)
    rows = {"memory_format": torch.channels_last}
    x = torch.randn(count, channels, SIZES[0], SIZES[0]).to(dtype).contiguous(**rows)
    levels = [
        torch.randn(1, channels >> k, -(-HEIGHT // s), -(-WIDTH // s)).to(dtype).contiguous(**rows)
        for k, s in enumerate(STRIDES, 1)
    ]
    corner = torch.rand(count, 2) * torch.tensor([WIDTH - 100, HEIGHT - 100])
    boxes = torch.cat([corner, corner + 30 + 70 * torch.rand(count, 2)], 1)
    rois = torch.cat([torch.zeros(count, 1), boxes], 1)
    state = torch.tensor([k for k, share in enumerate(SHARES) for _ in range(round(share * count))])
    state = state[torch.randperm(count)]
    stages = [stage(channels >> k, dtype) for k in range(3)]
    exits = [
        (torch.randn(rows, channels >> k).to(dtype), torch.randn(rows).to(dtype))
        for k, rows in enumerate((CLASSES, CLASSES, CLASSES, 1))
    ]
    scales = [1 / stride for stride in STRIDES]
    return x, levels, rois, torch.randint(CLASSES, (count,)), state, scales, stages, exits


def stage(channels: int, dtype: torch.dtype) -> FeatureAggregationWeights:
    c = channels // 2
    offsets = 18 * max(1, c // 32)
    shapes = [(c, channels, 1, 1), (c,), (c, c, 1, 1), (c,), (offsets, 2 * c, 3, 3), (offsets,)]
    shapes += [(c, c, 3, 3), (offsets, c, 1, 1), (offsets,), (c, c, 3, 3)]
    scaled = (torch.randn(s) / max(1, torch.Size(s[1:]).numel()) ** 0.5 for s in shapes)
    return FeatureAggregationWeights(*(w.to(dtype) for w in scaled))


@torch.no_grad()
def everything_then_pick(x, levels, rois, labels, state, scales, stages, exits):
    masks = []
    for k, (weight, bias) in enumerate(exits):
        if k > 0:
            x = feature_aggregation(x, levels[k - 1], rois, scales[k - 1], stages[k - 1])
        own = labels if len(weight) > 1 else torch.zeros_like(labels)
        masks.append(class_logits(x, weight, bias, own))
    return torch.cat([masks[k][n].flatten() for n, k in enumerate(state.tolist())])


def check(args: tuple, tolerance: float) -> None:
    masks, expected = grouped_mask_head(*args), everything_then_pick(*args)
    got = masks.values[: len(expected)]
    assert int(masks.offsets[-1]) == len(expected)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def cases():
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.bfloat16, 0.1)):
        for count, channels in ((100, 256), (100, 64)):
            args = arguments(count, channels, dtype)
            yield Case(
                op="grouped_mask_head",
                case=f"N={count} {channels} channels, 35/34/21/10 % at 14/28/56/112",
                ours=lambda args=args: grouped_mask_head(*args),
                baseline=lambda args=args: everything_then_pick(*args),
                baseline_name="all stages for all RoIs, then pick",
                check=lambda args=args, tolerance=tolerance: check(args, tolerance),
                dtype=str(dtype).removeprefix("torch."),
            )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_grouped_mask_head(case, report):
    report(case)
