import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from dynamask.benchmarks.harness import Case, on_gpu
from dynamask.ops import paste_masks

HEIGHT, WIDTH, COUNT = 800, 1333, 100


def scene(size):
    """Blobs with soft outlines in boxes of 32 to 500 pixels, as a detector on COCO gives them."""
    torch.manual_seed(0)
    bumps = torch.randn(COUNT, 1, 5, 5)
    bumps = F.interpolate(bumps, size=(size, size), mode="bicubic", align_corners=False)[:, 0]
    axis = torch.linspace(-1, 1, size)
    radius = (axis[:, None] ** 2 + axis**2).sqrt()
    masks = ((1 - 1.2 * radius + 0.5 * bumps) * 8).sigmoid()
    sides = torch.exp(math.log(32) + torch.rand(COUNT, 2) * math.log(500 / 32))
    centres = torch.rand(COUNT, 2) * torch.tensor([WIDTH, HEIGHT])
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    return masks, boxes.clamp(min=0).minimum(torch.tensor([WIDTH, HEIGHT] * 2))


def crop_detectron2(mask, box):
    """Where in the image detectron2 samples a mask on the CPU, around its box, and what."""
    x0, y0, x1, y1 = box
    left, top = int((x0.floor() - 1).clamp(min=0)), int((y0.floor() - 1).clamp(min=0))
    right = int((x1.ceil() + 1).clamp(max=WIDTH))
    bottom = int((y1.ceil() + 1).clamp(max=HEIGHT))
    image_y = (torch.arange(top, bottom) + 0.5 - y0) / (y1 - y0) * 2 - 1
    image_x = (torch.arange(left, right) + 0.5 - x0) / (x1 - x0) * 2 - 1
    grid = torch.stack(torch.meshgrid(image_x, image_y, indexing="xy"), dim=-1)[None]
    pasted = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
    return (slice(top, bottom), slice(left, right)), pasted >= 0.5


def paste_detectron2(masks, boxes):
    """`paste_masks_in_image` of detectron2 on the CPU: mask by mask, into a frame for each."""
    frames = torch.zeros(len(masks), HEIGHT, WIDTH, dtype=torch.bool)
    for frame, mask, box in zip(frames, masks, boxes):
        place, pasted = crop_detectron2(mask, box)
        frame[place] = pasted
    return frames


def paste_detectron2_on_gpu(masks, boxes):
    """`paste_masks_in_image` of detectron2 on a GPU: every mask at every pixel of the image."""
    x0, y0, x1, y1 = boxes.T[:, :, None]
    image_y = (torch.arange(HEIGHT, device=boxes.device) + 0.5 - y0) / (y1 - y0) * 2 - 1
    image_x = (torch.arange(WIDTH, device=boxes.device) + 0.5 - x0) / (x1 - x0) * 2 - 1
    places = (len(masks), HEIGHT, WIDTH)
    grid = torch.stack([image_x[:, None].expand(places), image_y[:, :, None].expand(places)], 3)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0] >= 0.5


def paste_torchvision(masks, boxes):
    return paste_masks_in_image(masks[:, None], boxes, (HEIGHT, WIDTH))[:, 0] >= 0.5


BASELINES = {
    "detectron2": paste_detectron2_on_gpu if on_gpu() else paste_detectron2,
    "torchvision": paste_torchvision,
}


def assert_same_pixels(ours, theirs):
    """On the CPU all, on a GPU, which interpolates in another order, but for a few at 0.5."""
    assert ours.shape == theirs.shape
    assert (ours != theirs).sum() <= (1e-4 * theirs.sum() if on_gpu() else 0)


def cases():
    for mode, baseline in BASELINES.items():
        for size in (28, 112):
            for out in ("dense", "packed"):
                masks, boxes = scene(size)

                def ours(masks=masks, boxes=boxes, out=out, mode=mode):
                    return paste_masks(masks, boxes, (HEIGHT, WIDTH), out=out, mode=mode)

                def check(ours=ours, baseline=baseline, masks=masks, boxes=boxes):
                    pasted = ours()
                    dense = pasted if isinstance(pasted, torch.Tensor) else pasted.dense()
                    assert_same_pixels(dense, baseline(masks, boxes))

                yield Case(
                    op="paste_masks",
                    case=f"N={COUNT} M={size} {HEIGHT}x{WIDTH} {out}",
                    ours=ours,
                    baseline=lambda baseline=baseline, args=(masks, boxes): baseline(*args),
                    baseline_name=f"{mode}",
                    check=check,
                )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_paste_masks(case, report):
    report(case)
