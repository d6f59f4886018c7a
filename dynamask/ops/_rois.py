"""What roi_align and multiscale_roi_align have in common: boxes, sizes and layouts of arguments."""

import torch
from torch import Tensor

from dynamask.ops._check import check_device, check_dims, check_float, check_range


def as_rois(op: str, boxes: Tensor | list[Tensor], features: Tensor) -> Tensor:
    """Boxes as [K, 5] with the number of the image first, from that or from one [L, 4] per image.

    Raises:
        TypeError: if the boxes are not of a floating dtype.
        ValueError: if a shape or device does not fit, or on the CPU a box is on an image out of
            range.
    """
    batch = features.shape[0]
    if isinstance(boxes, Tensor):
        check_dims(op, "boxes", boxes, "K 5")
        check_float(op, "boxes", boxes)
        check_device(op, features.device, boxes=boxes)
        check_range(op, "batch index of boxes", boxes[:, 0], batch)
        return boxes
    if len(boxes) != batch:
        raise ValueError(f"{op}: expected boxes for {batch} images, got a list of {len(boxes)}")
    rois = []
    for number, of_image in enumerate(boxes):
        check_dims(op, f"boxes[{number}]", of_image, "L 4")
        check_float(op, f"boxes[{number}]", of_image)
        check_device(op, features.device, **{f"boxes[{number}]": of_image})
        # fp16 and bf16 do not hold every number of an image
        of_image = of_image.float() if of_image.element_size() == 2 else of_image
        rois.append(torch.nn.functional.pad(of_image, (1, 0), value=number))
    return torch.cat(rois)


def as_pair(op: str, output_size: int | tuple[int, int] | list[int]) -> list[int]:
    """(height, width) of the output.

    Raises:
        ValueError: if it is not one positive number or two.
    """
    pair = [output_size] * 2 if isinstance(output_size, int) else list(output_size)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{op}: expected output_size of one or two numbers >= 1, got {pair}")
    return pair


def is_channels_last(x: Tensor) -> bool:
    """Whether the output takes the layout channels_last too: the rule of the kernels."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return x.numel() > 0 and last and not x.is_contiguous()


def new_empty(like: Tensor, size: list, channels_last: bool) -> Tensor:
    """An empty tensor [N, C, H, W] in one of the two layouts."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=layout)
