from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class ImageBatch(NamedTuple):
    """Images of different sizes in one tensor, each in the top left corner, zeros around it.

    Attributes:
        pixels: [B, 3, H, W], channels_last; H and W are multiples of what the batch was padded to.
        sizes: (height, width) of each image without its padding.
        extents: The same where the pixels are [B, 2], fp32.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]
    extents: Tensor

    @property
    def limits(self) -> Tensor:
        """The largest (x0, y0, x1, y1) a box of each image can have [B, 4], fp32."""
        return self.extents.flip(1).repeat(1, 2)

    @staticmethod
    def of(
        images: Sequence[Tensor], multiple: int = 32, dtype: torch.dtype | None = None
    ) -> "ImageBatch":
        """Pads images [3, H, W] to a common size, rounded up to a ``multiple``, in any dtype."""
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes))
        pixels = torch.empty(
            (len(images), 3, height, width),
            dtype=dtype or images[0].dtype,
            device=images[0].device,
            memory_format=torch.channels_last,
        ).zero_()
        for padded, image in zip(pixels, images):
            padded[:, : image.shape[1], : image.shape[2]] = image
        extents = torch.tensor(sizes, dtype=torch.float32).to(pixels.device, non_blocking=True)
        return ImageBatch(pixels, sizes, extents)


def check_images(images: Sequence[Tensor]) -> None:
    """Raises TypeError or ValueError unless ``images`` are float tensors [3, H, W]."""
    if isinstance(images, Tensor) or len(images) == 0:
        raise ValueError("detector: expected a list of at least one image [3, H, W]")
    for i, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
            raise ValueError(
                f"detector: expected image {i} to be [3, H, W], got {list(image.shape)}"
            )
        if not image.is_floating_point():
            raise TypeError(f"detector: expected image {i} as floats in 0..1, got {image.dtype}")
