import torch
from torch import Tensor


def walk(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """All grid points (u, v) of the edge from `start` to `end`, one step along the longer axis."""
    (x0, y0), (x1, y1) = start, end
    dx, dy = (x1 - x0).abs(), (y1 - y0).abs()
    if dx >= dy:
        if x0 > x1:
            u, v = walk(end, start)
            return u.flip(0), v.flip(0)
        u = x0 + torch.arange(int(dx) + 1)
        v = y0 + (y1 - y0) / dx * (u - x0) if dx > 0 else y0 + u * 0
        return u, (v + 0.5).trunc()
    v, u = walk(start.flip(0), end.flip(0))
    return u, v


def rasterise(vertices: Tensor, height: int, width: int) -> Tensor:
    """One ring of vertices [K, 2] in fp64 as bool [H, W], as pycocotools does it."""
    corners = (5 * vertices + 0.5).trunc()
    edges = [walk(*ends) for ends in zip(corners, corners.roll(-1, 0))]
    u, v = (torch.cat(points) for points in zip(*edges))
    left, above = torch.minimum(u[1:], u[:-1]), torch.minimum(v[1:], v[:-1])
    # where the walk passes the middle of a pixel column, all below is turned inside out
    passes = (u[1:] != u[:-1]) & (left % 5 == 2) & (left >= 0) & (left < 5 * width)
    column = ((left[passes] - 2) / 5).long()
    row = ((above[passes] - 2) / 5).ceil().clamp(0, height).long()
    turns = torch.zeros(height + 1, width, dtype=torch.long)
    turns.index_put_((row, column), torch.ones_like(row), accumulate=True)
    return turns.cumsum(0)[:height] % 2 == 1


def taps(start: Tensor, extent: Tensor, size: int, length: int) -> Tensor:
    """The weight [S, L] of each pixel of an axis in each bin of roi_align(aligned=True)."""
    weights = torch.zeros(size, length, dtype=start.dtype)
    samples = int((extent / size).ceil())
    for bin in range(size):
        for sample in range(samples):
            at = start + bin * (extent / size) + (sample + 0.5) * (extent / size) / samples
            if -1 <= at <= length:
                low = min(int(at.clamp(min=0)), length - 1)
                high = min(low + 1, length - 1)
                part = at.clamp(0, length - 1) - low
                weights[bin, low] += (1 - part) / samples
                weights[bin, high] += part / samples
    return weights


def coverage(bitmask: Tensor, box: Tensor, size: int) -> Tensor:
    """How much of each bin of a box [4] is foreground, as roi_align(aligned=True) averages it."""
    height, width = bitmask.shape
    x0, y0, x1, y1 = box - 0.5
    rows, columns = taps(y0, y1 - y0, size, height), taps(x0, x1 - x0, size, width)
    return rows @ (bitmask != 0).to(box.dtype) @ columns.T


def of_bitmask(bitmask: Tensor, box: Tensor, size: int) -> Tensor:
    return coverage(bitmask, box, size) >= 0.5


def of_outline(rings: list[Tensor], box: Tensor, size: int) -> Tensor:
    x0, y0, x1, y1 = box.double()
    scale = size / torch.stack([x1 - x0, y1 - y0]).clamp(min=1)
    target = torch.zeros(size, size, dtype=torch.bool)
    for ring in rings:
        target |= rasterise((ring.double() - torch.stack([x0, y0])) * scale, size, size)
    return target


def mask_targets(masks, boxes: Tensor, index: Tensor | None = None, sizes=(14, 28, 56, 112)):
    """`masks`: outlines (vertices, rings, instances), or bitmasks, [G, H, W] or a list of them."""
    target = of_outline if isinstance(masks, tuple) else of_bitmask
    if isinstance(masks, tuple):
        vertices, rings, starts = masks
        rings = vertices.split(rings.diff().tolist())
        masks = [rings[i:j] for i, j in zip(starts.tolist(), starts[1:].tolist())]
    chosen = range(len(boxes)) if index is None else index.tolist()
    targets = []
    for size in sizes:
        out = torch.zeros(len(boxes), size, size, dtype=torch.uint8)
        for r, g in enumerate(chosen):
            out[r] = target(masks[g], boxes[r], size)
        targets.append(out)
    return targets
