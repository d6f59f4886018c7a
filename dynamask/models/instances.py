from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Instances:
    """Boxes of a batch for which masks are wanted: what a mask branch works on.

    Attributes:
        boxes: (x0, y0, x1, y1) in pixels of the padded batch [N, 4]; (0, 0) is the top left corner
            of the top left pixel.
        labels: Class of each box [N] int64, in [0, num_classes).
        batch: Image of each box [N] int64.
        valid: False where there is only room for a box and its mask will not be looked at [N], or
            None if all are there.
    """

    boxes: Tensor
    labels: Tensor
    batch: Tensor
    valid: Tensor | None = None

    def __len__(self) -> int:
        return self.boxes.shape[0]

    @property
    def rois(self) -> Tensor:
        """Boxes as the RoI operators take them: (image, x0, y0, x1, y1) [N, 5]."""
        return torch.cat([self.batch[:, None].to(self.boxes.dtype), self.boxes], 1)

    def select(self, index: Tensor) -> "Instances":
        """The instances at ``index`` (positions [K] or a mask [N])."""
        valid = None if self.valid is None else self.valid[index]
        return Instances(self.boxes[index], self.labels[index], self.batch[index], valid)
