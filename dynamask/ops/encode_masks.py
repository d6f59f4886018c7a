import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from dynamask.ops.paste_masks import check_paste
from dynamask.ops.ragged_masks import RaggedMasks


def encode_masks(
    masks: Tensor | RaggedMasks | Sequence[Tensor],
    boxes: Tensor,
    image_size: tuple[int, int],
    threshold: float = 0.5,
    *,
    mode: str = "detectron2",
) -> list[dict]:
    """Low-resolution masks and their boxes straight to COCO's compressed run lengths.

    Equal, byte for byte, to :func:`paste_masks` followed by ``pycocotools.mask.encode`` of each
    frame, but no frame is ever made: time and memory follow the outlines, not the image.

    Args:
        masks: Probabilities [N, M, M], a list of [M, M] of any sizes, or ragged masks. Any floating
            dtype; compared in fp32.
        boxes: Corners (x0, y0, x1, y1) in pixels [N, 4]; see :func:`paste_masks`.
        image_size: Height and width of the image.
        threshold: Pixels of at least this value are foreground; above 0.
        mode: "detectron2" or "torchvision": where pixels lie; see :func:`paste_masks`.

    Returns:
        A dict per mask, ``{"size": [height, width], "counts": bytes}``: COCO's RLE.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape, a threshold or an option does not fit, or the image has more than
            2**31 - 1 pixels, which COCO's counts may not hold.
    """
    op = "encode_masks"
    ragged, height, width = check_paste(op, masks, boxes, image_size, threshold, mode)
    if height * width >= 2**31:
        raise ValueError(f"{op}: expected an image below 2**31 pixels, got {(height, width)}")
    args = (*ragged, boxes, height, width, float(threshold), mode)
    counts, offsets = torch.ops.dynamask.encode_masks(*args)
    text, places = counts.cpu().numpy().tobytes(), offsets.tolist()
    return [
        {"size": [height, width], "counts": text[start:end]}
        for start, end in itertools.pairwise(places)
    ]


@torch.library.register_fake("dynamask::encode_masks")
def _(masks, sizes, boxes, height, width, threshold, mode):
    size = torch.library.get_ctx().new_dynamic_size()
    return (
        boxes.new_empty(size, dtype=torch.uint8),
        boxes.new_empty(boxes.shape[0] + 1, dtype=torch.int64),
    )
