"""Edge and block targets of 128 RoIs against the convolutions that other code makes them with."""

import pytest
import torch
import torch.nn.functional as F

from dynamask.benchmarks.harness import Case
from dynamask.ops import block_targets, edge_targets
from dynamask.reference.edge_targets import edge_targets as edges_by_convolution

ROIS, SIZES = 128, (14, 28, 56, 112)
LAPLACIAN = torch.full((1, 1, 3, 3), -1.0)
LAPLACIAN[0, 0, 1, 1] = 8
FUSE = torch.tensor([0.7, 0.3]).view(1, 2, 1, 1)


def edges_as_trained(masks):
    """The edges DynaMask and RefineMask train with: responses at two strides, then fused."""
    masks = masks.unsqueeze(1).float()
    fine = F.conv2d(masks, LAPLACIAN, padding=1).clamp(min=0)
    fine[fine > 0.1] = 1
    fine[fine <= 0.1] = 0
    coarse = F.conv2d(masks, LAPLACIAN, stride=2, padding=1).clamp(min=0)
    coarse = F.interpolate(coarse, fine.shape[2:], mode="nearest")
    coarse[coarse > 0.1] = 1
    coarse[coarse <= 0.1] = 0
    fused = F.conv2d(torch.cat([fine, coarse], 1), FUSE)
    fused[fused > 0.1] = 1
    fused[fused <= 0.1] = 0
    return fused.squeeze(1)


def blocks_as_trained(masks, width=2):
    """RefineMask's blocks: what is unlike it around each pixel, inside and outside by turns."""
    masks, side = masks.float(), 2 * width + 1
    kernel = masks.new_full((1, 1, side, side), -1.0)
    kernel[0, 0, width, width] = side**2 - 1
    padded = F.pad(masks.unsqueeze(1), [width] * 4)
    bands = []
    for ones in (padded, 1 - padded):
        response = F.conv2d(ones, kernel).clamp(min=0) / side**2
        response[response > 0.1] = 1
        response[response <= 0.1] = 0
        bands.append(response.squeeze(1))
    blocks = torch.zeros_like(masks).long()
    blocks[bands[0] + bands[1] > 0] = 1
    blocks[masks - bands[0] > 0] = 2
    return blocks


# name, ours, what it is compared with, its name
FORMS = (
    ("union", lambda m: edge_targets(m, True), edges_as_trained, "conv2d at two strides, fused"),
    ("inner", edge_targets, edges_by_convolution, "conv2d"),
    ("blocks of 5x5", block_targets, blocks_as_trained, "conv2d of 5x5, twice"),
)


def masks_of(sides, dtype):
    torch.manual_seed(0)
    noise = [torch.rand(ROIS, 1, side, side) for side in sides]
    return [(F.avg_pool2d(x, 5, 1, 2)[:, 0] > 0.5).to(dtype) for x in noise]


def case(form, sides, dtype):
    name, ours, baseline, baseline_name = form
    masks = masks_of(sides, dtype)

    def check():
        for got, mask in zip(ours(masks), masks, strict=True):
            assert torch.equal(got, baseline(mask).to(got.dtype))

    return Case(
        op="edge_targets",
        case=f"N={ROIS} {'+'.join(map(str, sides))} {name}",
        ours=lambda: ours(masks),
        baseline=lambda: [baseline(mask) for mask in masks],
        baseline_name=baseline_name,
        check=check,
        dtype=str(dtype).removeprefix("torch."),
        floor=lambda: [mask.clone() for mask in masks],
    )


def cases():
    for form in FORMS:
        for sides in (*((side,) for side in SIZES), SIZES):
            for dtype in (torch.uint8, torch.float32):
                yield case(form, sides, dtype)


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_edge_targets(case, report):
    report(case)
