import itertools

import torch
from torch import Tensor

from dynamask.reference.paste_masks import paste_masks


def encode_masks(
    masks: list[Tensor],
    boxes: Tensor,
    image_size: tuple[int, int],
    threshold: float = 0.5,
    *,
    mode: str = "detectron2",
) -> list[dict]:
    """Each pasted mask as COCO's compressed run lengths."""
    dense = paste_masks(masks, boxes, image_size, threshold, mode=mode)
    return [{"size": list(image_size), "counts": _compress(_runs(frame))} for frame in dense]


def _runs(frame: Tensor) -> list[int]:
    """Lengths of runs down the columns, background first."""
    pixels = frame.t().flatten().int()
    changes = torch.diff(pixels, prepend=pixels.new_zeros(1)).nonzero().flatten().tolist()
    edges = [0, *changes, pixels.numel()]
    return [end - start for start, end in itertools.pairwise(edges)]


def _compress(runs: list[int]) -> bytes:
    """Five bits a byte, lowest first; from the fourth on, differences to two before."""
    text = bytearray()
    for i, run in enumerate(runs):
        x = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            group, x = x & 31, x >> 5
            more = x != (-1 if group & 16 else 0)
            text.append(48 + group + (32 if more else 0))
    return bytes(text)
