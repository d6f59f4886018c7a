import torch
from torch import Tensor


def roi_align(
    input: Tensor,
    boxes: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    n, c, height, width = input.shape
    boxes = boxes.double() if input.dtype == torch.float64 else boxes.float()
    # the empty sum is 0, and makes the output of no boxes differentiable
    out = input.new_zeros(len(boxes), c, *output_size) + input[:0].sum()
    for r, box in enumerate(boxes):
        if not box.isfinite().all() or not 0 <= box[0] < n:
            continue
        index, x1, y1, x2, y2 = box
        rows = _taps(y1, y2, spatial_scale, output_size[0], height, sampling_ratio, aligned)
        cols = _taps(x1, x2, spatial_scale, output_size[1], width, sampling_ratio, aligned)
        plane = input[int(index)]  # [C, H, W]
        out[r] = torch.einsum("ph,chw,qw->cpq", rows.to(plane), plane, cols.to(plane))
    return out


def _taps(low, high, scale, bins, length, sampling_ratio, aligned) -> Tensor:
    """How much each pixel weighs in each bin of one axis [bins, length]."""
    offset = 0.5 if aligned else 0.0
    start = low * scale - offset
    side = (high * scale - offset) - start
    if not aligned:
        side = side.clamp(min=1)
    bin_size = side / bins
    grid = sampling_ratio if sampling_ratio > 0 else int(bin_size.ceil().clamp(min=0))
    taps = low.new_zeros(bins, length)
    if length == 0 or not side.isfinite():
        return taps
    for p in range(bins):
        for i in range(grid):
            position = start + p * bin_size + (i + 0.5) * bin_size / grid
            if position < -1 or position > length:
                continue
            position = position.clamp(0, length - 1)
            pixel = int(position)
            fraction = position - pixel
            taps[p, pixel] += (1 - fraction) / grid
            taps[p, min(pixel + 1, length - 1)] += fraction / grid
    return taps
