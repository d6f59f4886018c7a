from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator


class Anchors(AnchorGenerator):
    """Boxes of one size and a few shapes at every cell of every level.

    Args:
        sizes: Side of the square anchor of each level, in pixels.
        ratios: Heights over widths.
        convention: ``exact``, or ``torchvision``, which rounds the corners to whole pixels and
            takes as stride of a level what fits its map into the batch (61 instead of 64 for P6 of
            an image 800 high).
        strides: Distance between the cells of each level, for ``exact``.
    """

    def __init__(
        self,
        sizes: Sequence[int] = (32, 64, 128, 256, 512),
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        *,
        convention: str = "exact",
        strides: Sequence[int] = (4, 8, 16, 32, 64),
    ) -> None:
        if convention not in ("exact", "torchvision"):
            raise ValueError(f"anchors: expected exact or torchvision, got {convention!r}")
        self.exact = convention == "exact"
        self.strides = strides
        super().__init__(tuple((size,) for size in sizes), (tuple(ratios),) * len(sizes))

    def generate_anchors(self, scales, aspect_ratios, dtype=torch.float32, device="cpu") -> Tensor:
        if not self.exact:
            return super().generate_anchors(scales, aspect_ratios, dtype, device)
        root = torch.tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        half = torch.stack([1 / root, root], 1) * scales[0] / 2  # [ratios, 2] as (x, y)
        return torch.cat([-half, half], 1)

    def grid_anchors(self, grid_sizes, strides) -> list[Tensor]:
        """torchvision's numbers by half as many kernels."""
        anchors = []
        for base, (height, width), (down, right) in zip(self.cell_anchors, grid_sizes, strides):
            like = {"dtype": base.dtype, "device": base.device}
            x = torch.arange(0, width * right, right, **like).expand(height, width)
            y = torch.arange(0, height * down, down, **like)[:, None].expand(height, width)
            corners = torch.stack((x, y, x, y), 2)
            anchors.append((corners[:, :, None] + base).flatten(0, 2))
        return anchors

    def forward(self, features: Sequence[Tensor], pixels: Tensor) -> list[Tensor]:
        """Anchors [H * W * A, 4] of each level, cell after cell, the same for every image."""
        grids = [list(feature.shape[-2:]) for feature in features]
        if self.exact:
            strides = [[stride, stride] for stride in self.strides]
        else:
            strides = [[p // g for p, g in zip(pixels.shape[-2:], grid)] for grid in grids]
        self.set_cell_anchors(torch.float32, pixels.device)
        return self.grid_anchors(grids, strides)
