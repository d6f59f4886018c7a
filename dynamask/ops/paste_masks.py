from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from dynamask.ops._check import check_device, check_dims, check_float, check_size
from dynamask.ops.ragged_masks import RaggedMasks

MODES = ("detectron2", "torchvision")


class PackedMasks(NamedTuple):
    """Pasted masks as bits, each only inside its own box of pixels.

    Attributes:
        bits: The boxes' rows, each from a byte of its own, the leftmost pixel in the lowest bit,
            box after box [offsets[-1]] uint8.
        offsets: Where the bits of each mask start, and the end of the last [N + 1] int64.
        boxes: Pixels (x0, y0, x1, y1) that each mask covers at most, x1 and y1 excluded [N, 4]
            int64, inside the image; zeros where a mask covers nothing.
        image_size: Height and width of the image.
    """

    bits: Tensor
    offsets: Tensor
    boxes: Tensor
    image_size: tuple[int, int]

    def crop(self, index: int) -> Tensor:
        """The pixels of one mask inside its box, bool [y1 - y0, x1 - x0]."""
        x0, y0, x1, y1 = self.boxes[index].tolist()
        start, end = self.offsets[index].tolist(), self.offsets[index + 1].tolist()
        rows = self.bits[start:end].view(y1 - y0, -1 if x1 > x0 else 0)
        shifts = torch.arange(8, dtype=torch.uint8, device=rows.device)
        return (rows.unsqueeze(-1) >> shifts & 1).flatten(1)[:, : x1 - x0].bool()

    def dense(self) -> Tensor:
        """All masks in frames of their own, bool [N, H, W]."""
        count = self.boxes.shape[0]
        frames = torch.zeros(count, *self.image_size, dtype=torch.bool, device=self.bits.device)
        for n, (x0, y0, x1, y1) in enumerate(self.boxes.tolist()):
            frames[n, y0:y1, x0:x1] = self.crop(n)
        return frames

    def area(self) -> Tensor:
        """The number of foreground pixels of each mask [N] int64."""
        bytes_set = torch.arange(256, device=self.bits.device)
        set_bits = sum((bytes_set >> k & 1 for k in range(8)), torch.zeros_like(bytes_set))
        sums = torch.cat([self.offsets.new_zeros(1), set_bits[self.bits.long()].cumsum(0)])
        return sums[self.offsets].diff()


@overload
def paste_masks(
    masks: Tensor | RaggedMasks | Sequence[Tensor],
    boxes: Tensor,
    image_size: tuple[int, int],
    threshold: float = ...,
    *,
    out: Literal["dense"] = ...,
    mode: str = ...,
) -> Tensor: ...
@overload
def paste_masks(
    masks: Tensor | RaggedMasks | Sequence[Tensor],
    boxes: Tensor,
    image_size: tuple[int, int],
    threshold: float = ...,
    *,
    out: Literal["packed"],
    mode: str = ...,
) -> PackedMasks: ...
def paste_masks(
    masks: Tensor | RaggedMasks | Sequence[Tensor],
    boxes: Tensor,
    image_size: tuple[int, int],
    threshold: float = 0.5,
    *,
    out: Literal["dense", "packed"] = "dense",
    mode: str = "detectron2",
) -> Tensor | PackedMasks:
    """Resizes each low-resolution mask onto its box in the image and cuts it at a threshold.

    Equal, pixel for pixel and ties included, to ``paste_masks_in_image`` of the library that `mode`
    names (on CPUs with AVX2, for which torch's own kernels round as these do).

    Args:
        masks: Probabilities [N, M, M], a list of [M, M] of any sizes, or ragged masks. Any floating
            dtype; compared in fp32.
        boxes: Corners (x0, y0, x1, y1) in pixels [N, 4]; (0, 0) is the outer corner of the top left
            pixel. They may reach out of the image. An inverted box, or one with a corner that is
            not finite, pastes nothing.
        image_size: Height and width of the image.
        threshold: Pixels of at least this value are foreground; above 0, as everything outside of
            a mask is 0.
        out: "dense": frames of booleans. "packed": :class:`PackedMasks`, the same pixels as bits
            inside the boxes, about a thousandth of the memory.
        mode: Where pixels lie. "detectron2": at their centres, sampled with zeros outside of the
            mask (``paste_masks_in_image``, its CPU branch). "torchvision": the mask gets a ring of
            zeros, the grown box is cut to integers and the mask resized to them
            (``roi_heads.paste_masks_in_image`` with ``padding=1``).

    Returns:
        bool [N, H, W], or packed masks.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape, a device, a threshold or an option does not fit.
    """
    op = "paste_masks"
    ragged, height, width = check_paste(op, masks, boxes, image_size, threshold, mode)
    if out not in ("dense", "packed"):
        raise ValueError(f"{op}: expected out 'dense' or 'packed', got {out!r}")
    args = (*ragged, boxes, height, width, float(threshold), mode)
    if out == "dense":
        return torch.ops.dynamask.paste_masks(*args)
    bits, offsets, pixel_boxes = torch.ops.dynamask.paste_masks_packed(*args)
    return PackedMasks(bits, offsets, pixel_boxes, (height, width))


def check_paste(
    op: str,
    masks: Tensor | RaggedMasks | Sequence[Tensor],
    boxes: Tensor,
    image_size: tuple[int, int],
    threshold: float,
    mode: str,
) -> tuple[RaggedMasks, int, int]:
    """What paste_masks and encode_masks refuse; returns ragged masks, height and width."""
    ragged = RaggedMasks.of(masks, op)
    check_float(op, "masks", ragged.values)
    check_dims(op, "boxes", boxes, "N 4")
    check_float(op, "boxes", boxes)
    check_size(op, "boxes", ragged.sizes.shape[0], boxes.shape[0])
    check_device(op, ragged.values.device, sizes=ragged.sizes, boxes=boxes)
    if len(image_size) != 2 or not all(0 <= size < 2**30 for size in image_size):
        raise ValueError(f"{op}: expected image_size (height, width), got {tuple(image_size)}")
    if not 0 < threshold < float("inf"):
        raise ValueError(f"{op}: expected threshold above 0, got {threshold}")
    if mode not in MODES:
        raise ValueError(f"{op}: expected mode 'detectron2' or 'torchvision', got {mode!r}")
    height, width = image_size
    return ragged, height, width


@torch.library.register_fake("dynamask::paste_masks")
def _(masks, sizes, boxes, height, width, threshold, mode):
    return boxes.new_empty(boxes.shape[0], height, width, dtype=torch.bool)


@torch.library.register_fake("dynamask::paste_masks_packed")
def _(masks, sizes, boxes, height, width, threshold, mode):
    count = boxes.shape[0]
    size = torch.library.get_ctx().new_dynamic_size()
    return (
        boxes.new_empty(size, dtype=torch.uint8),
        boxes.new_empty(count + 1, dtype=torch.int64),
        boxes.new_empty(count, 4, dtype=torch.int64),
    )
