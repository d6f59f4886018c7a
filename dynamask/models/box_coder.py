import torch
from torch import Tensor
from torchvision.models.detection import _utils


class BoxCoder(_utils.BoxCoder):
    """torchvision's, but nothing is copied from the host: a CUDA graph can record the decoding."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes moved and resized.

        Args:
            rel_codes: (dx, dy, dw, dh) of one class or several [N, 4 * K].
            boxes: (x0, y0, x1, y1) in pixels [N, 4].

        Returns:
            [N, 4 * K] in pixels, the same bits as torchvision's.
        """
        boxes = boxes.to(rel_codes.dtype)

        def ends(axis: int) -> tuple[Tensor, Tensor]:
            size = (boxes[:, axis + 2] - boxes[:, axis])[:, None]
            centre = boxes[:, axis, None] + 0.5 * size
            moved = rel_codes[:, axis::4] / self.weights[axis] * size + centre
            grown = rel_codes[:, axis + 2 :: 4] / self.weights[axis + 2]
            half = 0.5 * (grown.clamp(max=self.bbox_xform_clip).exp() * size)
            return moved - half, moved + half

        (x0, x1), (y0, y1) = ends(0), ends(1)
        return torch.stack((x0, y0, x1, y1), 2).flatten(1)
