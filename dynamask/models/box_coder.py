import torch
from torch import Tensor
from torchvision.models.detection import _utils


class BoxCoder(_utils.BoxCoder):
    """torchvision's, but nothing is copied from the host: a CUDA graph can record the decoding.

    Args:
        weights: Of dx, dy, dw, dh; the same for x and y.

    Raises:
        ValueError: if they differ.
    """

    def __init__(self, weights: tuple[float, float, float, float]) -> None:
        if weights[0] != weights[1] or weights[2] != weights[3]:
            raise ValueError(f"BoxCoder: expected weights alike for x and y, got {weights}")
        super().__init__(weights)

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes moved and resized.

        Args:
            rel_codes: (dx, dy, dw, dh) of one class or several [N, 4 * K].
            boxes: (x0, y0, x1, y1) in pixels [N, 4].

        Returns:
            [N, 4 * K] in pixels, the same bits as torchvision's.
        """
        boxes = boxes[:, None].to(rel_codes.dtype)
        codes = rel_codes.unflatten(1, (-1, 4))  # [N, K, 4]
        size = boxes[..., 2:] - boxes[..., :2]  # x and y at once, as all that follows
        centre = boxes[..., :2] + 0.5 * size
        moved = codes[..., :2] / self.weights[0] * size + centre
        grown = (codes[..., 2:] / self.weights[2]).clamp(max=self.bbox_xform_clip)
        half = 0.5 * (grown.exp() * size)
        return torch.cat((moved - half, moved + half), 2).flatten(1)
