"""A small call of grouped_mask_head: two stages and three mask sizes."""

import torch

from dynamask.ops import FeatureAggregationWeights

SIZES = (3, 6, 12)
SCALES = [1 / 8, 1 / 4]
CLASSES = 4
MIX = [0, 2, 1, 1, 0, 2, 0]


def stage_weights(channels, dtype):
    c, offsets = channels // 2, 18
    shapes = [(c, channels, 1, 1), (c,), (c, c, 1, 1), (c,), (offsets, 2 * c, 3, 3), (offsets,)]
    shapes += [(c, c, 3, 3), (offsets, c, 1, 1), (offsets,), (c, c, 3, 3)]
    return FeatureAggregationWeights(*(0.4 * torch.randn(s).to(dtype) for s in shapes))


def inputs(states=MIX, dtype=torch.float32, channels=8, layout=torch.channels_last):
    n = len(states)
    x = torch.randn(n, channels, SIZES[0], SIZES[0]).to(dtype).contiguous(memory_format=layout)
    levels = [torch.randn(2, channels >> k, 9, 11).to(dtype) for k in (1, 2)]
    corner = torch.rand(n, 2) * 30
    boxes = torch.cat([corner, corner + 6 + torch.rand(n, 2) * 30], 1)
    rois = torch.cat([torch.randint(0, 2, (n, 1)).float(), boxes], 1)
    labels, state = torch.randint(0, CLASSES, (n,)), torch.tensor(states, dtype=torch.int64)
    stages = [stage_weights(channels >> k, dtype) for k in (0, 1)]
    rows = (CLASSES, CLASSES, 1)
    exits = [
        (torch.randn(r, channels >> k).to(dtype), torch.randn(r).to(dtype))
        for k, r in enumerate(rows)
    ]
    return x, levels, rois, labels, state, SCALES, stages, exits


def double(args):
    """The same arguments with features and weights in fp64."""
    x, levels, rois, labels, state, scales, stages, exits = args
    stages = [tuple(w.double() for w in stage) for stage in stages]
    exits = [(w.double(), b.double()) for w, b in exits]
    return x.double(), [v.double() for v in levels], rois, labels, state, scales, stages, exits
