"""Image files to tensors: whatever the file holds, RGB with 8 bits, or an error that names it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynamask.data.checks import DataError

# below the size from which Pillow itself warns of decompression bombs
MAX_PIXELS = 80_000_000
# no format whose reader starts other programs (EPS) or is rare enough to be little tested
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".jp2", ".avif"),
)
# the EXIF tag, and what each of its values but 1 asks for
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    path: str | Path, size: tuple[int, int] | None = None, *, max_pixels: int = MAX_PIXELS
) -> Tensor:
    """Reads an image file as RGB.

    Grey, palette, CMYK and other images are converted, transparency is dropped, of an animation
    the first frame is taken, and of 16 bits the upper 8.

    Args:
        path: The file.
        size: (height, width) it must have. Annotations refer to the pixels as they are stored, so
            the rotation that a camera notes in the EXIF data is then ignored, unless only the
            rotated image has this size. Without a size the rotation is applied.
        max_pixels: Refuse larger images, by what the header says, before decoding them.

    Returns:
        The pixels [3, H, W] uint8.

    Raises:
        DataError: if the file is missing, no image, damaged, too large, or of another size.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"data: there is no image file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(path, size, max_pixels)
    except DataError:
        raise
    except Exception as error:
        # decoders raise many kinds of exception over damaged files
        reason = str(error) or type(error).__name__
        raise DataError(
            f"data: cannot read image {path}: {reason}\n  fix: replace the file, or take it out "
            "of the data set"
        ) from error


def _read(path: Path, size: tuple[int, int] | None, max_pixels: int) -> Tensor:
    Image.init()
    with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
        if image.width * image.height > max_pixels:
            raise DataError(
                f"data: image {path} has {image.width} x {image.height} pixels, more than "
                f"max_pixels = {max_pixels}\n  fix: make it smaller, or raise max_pixels"
            )
        picture = _rgb(image, path)
        if size != (picture.height, picture.width):
            picture = _upright(picture, _orientation(image), size)
    if size is not None and size != (picture.height, picture.width):
        raise DataError(
            f"data: image {path} is {picture.width} x {picture.height} pixels, but its annotations "
            f"were made for {size[1]} x {size[0]}\n  fix: put the original image back, or correct "
            "'width' and 'height' and the annotations in the JSON file"
        )
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:
        # damaged EXIF data are no reason to refuse pixels that are sound
        return 1


def _upright(picture: Image.Image, orientation: int, size: tuple[int, int] | None) -> Image.Image:
    """Turned as the camera notes, unless that does not give the size wanted."""
    if orientation not in TURNS:
        return picture
    turned = picture.transpose(TURNS[orientation])
    return turned if size in (None, (turned.height, turned.width)) else picture


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "F":
        raise DataError(
            f"data: image {path} holds floating point numbers\n  fix: save it with 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    return image.convert("RGB")
