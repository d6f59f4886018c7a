import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torchvision.ops import roi_align

from dynamask import rle
from dynamask.benchmarks.harness import Case, on_gpu
from dynamask.ops import Polygons, mask_targets

SIZES = (14, 28, 56, 112)
HEIGHT, WIDTH, INSTANCES, ROIS = 800, 1333, 10, 128


def scene(corners=25):
    """Ragged outlines in one image, and boxes near them as a sampler of proposals takes them."""
    torch.manual_seed(0)
    middle = torch.rand(INSTANCES, 1, 2) * torch.tensor([WIDTH, HEIGHT])
    radius = 20 + 200 * torch.rand(INSTANCES, 1, 1) ** 2
    angle = torch.linspace(0, 2 * torch.pi, corners + 1)[:-1]
    length = radius * (0.7 + 0.3 * torch.rand(INSTANCES, corners, 1))
    outlines = middle + length * torch.stack([angle.cos(), angle.sin()], 1)
    index = torch.randint(0, INSTANCES, (ROIS,))
    boxes = torch.cat([middle - radius, middle + radius], 2)[index, 0]
    boxes += (torch.rand(ROIS, 4) - 0.5) * 0.3 * radius[index, 0]
    boxes[:, ::2].clamp_(0, WIDTH)
    boxes[:, 1::2].clamp_(0, HEIGHT)
    return [[outline.flatten().tolist()] for outline in outlines], boxes, index


def by_pycocotools(outlines, boxes, index, sizes):
    """The crop of mmdet and detectron2: per box and size, in numpy and pycocotools."""
    arrays = [[np.float64(np.float32(ring)) for ring in outline] for outline in outlines]
    targets = []
    for size in sizes:
        out = np.empty((len(boxes), size, size), np.uint8)
        for r, (g, box) in enumerate(zip(index.tolist(), boxes.double().cpu().numpy())):
            scale = size / np.maximum(box[2:] - box[:2], 1)
            rings = [((ring.reshape(-1, 2) - box[:2]) * scale).ravel() for ring in arrays[g]]
            out[r] = coco.decode(coco.merge(coco.frPyObjects(rings, size, size)))
        targets.append(torch.from_numpy(out).to(boxes.device))
    return targets


def by_roi_align(masks, boxes, index, sizes, copies):
    """detectron2's BitMasks.crop_and_resize; with copies, of one full-size mask for each box."""
    if copies:
        masks, index = masks[index], torch.arange(len(index), device=index.device)
    rois = torch.cat([index[:, None].float(), boxes], 1)
    return [
        (roi_align(masks.float()[:, None], rois, s, 1.0, -1, True)[:, 0] >= 0.5).byte()
        for s in sizes
    ]


def assert_equal(ours, baseline):
    """But for a few ties, where a GPU sums up the roi_align of bitmaps in another order."""
    for got, expected in zip(ours(), baseline(), strict=True):
        assert (got != expected).float().mean() <= (1e-4 if on_gpu() else 0)


def case(name, kind, baseline_name, masks, baseline, sizes, boxes, index):
    def ours():
        return mask_targets(masks, boxes, index, sizes)

    return Case(
        op="mask_targets",
        case=f"{kind} N={ROIS} {name}",
        ours=ours,
        baseline=baseline,
        baseline_name=baseline_name,
        check=lambda: assert_equal(ours, baseline),
        dtype="uint8",
    )


def cases():
    outlines, boxes, index = scene()
    runs = [rle.from_polygons(outline, HEIGHT, WIDTH) for outline in outlines]
    masks = torch.stack([torch.from_numpy(rle.decode(mask)) for mask in runs]).to(boxes.device)
    for sizes in (*((size,) for size in SIZES), SIZES):
        name = "@".join(["", *map(str, sizes)])
        boxed = (sizes, boxes, index)
        yield case(
            name, "outlines", "pycocotools", Polygons.of(outlines),
            lambda s=sizes: by_pycocotools(outlines, boxes, index, s), *boxed,
        )  # fmt: skip
        for kind, ours in (("bitmaps", masks), ("run lengths", runs)):
            for copies in (True, False):
                yield case(
                    name, kind, "roi_align" + (" of masks per box" if copies else ""), ours,
                    lambda s=sizes, c=copies: by_roi_align(masks, boxes, index, s, c), *boxed,
                )  # fmt: skip


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_mask_targets(case, report):
    report(case)
