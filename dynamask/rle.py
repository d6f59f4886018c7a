"""COCO's run-length masks, and nothing that trusts them.

A mask is ``{"size": [height, width], "counts": bytes}``: the lengths of runs down the columns,
background first, packed into printable bytes. On valid masks every function here returns what
pycocotools returns, byte for byte. A malformed one raises ValueError with the place and the reason,
before memory of its claimed size is allocated. ``counts`` may also be a ``str``, as JSON has it, or
COCO's uncompressed list of lengths; what is returned always holds ``bytes``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from dynamask import _codec


class RLE(TypedDict):
    """One mask: ``size`` is [height, width], ``counts`` its runs."""

    size: list[int]
    counts: bytes


def encode(bitmap: Any) -> RLE:
    """The mask of a bitmap.

    Args:
        bitmap: Pixels [H, W], a numpy array or a CPU tensor, bool or uint8; any value but 0 is
            foreground. Column-major memory is the fast path.

    Raises:
        TypeError: if the dtype is neither bool nor uint8.
        ValueError: if the bitmap has not two dimensions, or more than 2**31 - 1 pixels.
    """
    pixels = np.asarray(bitmap)
    if pixels.dtype not in (np.bool_, np.uint8):
        raise TypeError(f"rle: expected a bitmap of bool or uint8, got {pixels.dtype}")
    if pixels.ndim != 2:
        raise ValueError(f"rle: expected a bitmap [H, W], got {list(pixels.shape)}")
    height, width = pixels.shape
    return {
        "size": [height, width],
        "counts": _codec.encode(np.asfortranarray(pixels.view(np.uint8))),
    }


def decode(rle: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The pixels of a mask, 0 and 1: uint8 [H, W] in column-major memory.

    Raises:
        ValueError: if the mask is malformed.
    """
    return _codec.decode(*_parts(rle))


def area(rle: Mapping[str, Any]) -> int:
    """The number of foreground pixels.

    Raises:
        ValueError: if the mask is malformed.
    """
    return _codec.area(*_parts(rle))


def to_bbox(rle: Mapping[str, Any]) -> list[float]:
    """The smallest box around the foreground, ``[x, y, width, height]``; zeros if there is none.

    Raises:
        ValueError: if the mask is malformed.
    """
    return [float(number) for number in _codec.to_bbox(*_parts(rle))]


def merge(rles: Sequence[Mapping[str, Any]], intersect: bool = False) -> RLE:
    """The union of masks of one image, or their intersection.

    Raises:
        ValueError: if there is no mask, one is malformed, or the sizes differ.
    """
    counts, height, width = _parts_of_one_image(rles)
    return {
        "size": [height, width],
        "counts": _codec.merge(counts, height, width, intersect),
    }


def iou(
    detected: Sequence[Mapping[str, Any]],
    truth: Sequence[Mapping[str, Any]],
    crowd: Sequence[bool] | None = None,
) -> NDArray[np.float64]:
    """Intersection over union of every pair of masks of one image.

    Args:
        detected: D masks.
        truth: G masks.
        crowd: Which of ``truth`` are crowds [G]: for those the intersection is divided by the area
            of the detected mask alone. None: none of them.

    Returns:
        Ratios [D, G].

    Raises:
        ValueError: if a mask is malformed, sizes differ, or there are not G crowd flags.
    """
    if not detected or not truth:
        return np.zeros((len(detected), len(truth)))
    counts, height, width = _parts_of_one_image([*detected, *truth])
    flags = [False] * len(truth) if crowd is None else [bool(flag) for flag in crowd]
    split = len(detected)
    return _codec.iou(counts[:split], counts[split:], height, width, flags)


def validate(rle: Mapping[str, Any], height: int | None = None, width: int | None = None) -> RLE:
    """A mask from outside, checked: sound runs that fill the image, in compressed form.

    Args:
        rle: A mask; ``counts`` as bytes, str, or a list of lengths.
        height: What its height has to be; None: anything.
        width: What its width has to be; None: anything.

    Raises:
        ValueError: if the mask is malformed, with the place and the reason, or of another size.
    """
    counts, actual_height, actual_width = _parts(rle)
    expected = [
        actual_height if height is None else height,
        actual_width if width is None else width,
    ]
    if [actual_height, actual_width] != expected:
        raise ValueError(f"rle: expected size {expected}, got {[actual_height, actual_width]}")
    _codec.check(counts, actual_height, actual_width)
    return {"size": [actual_height, actual_width], "counts": counts}


def from_polygons(rings: Sequence[Sequence[float]], height: int, width: int) -> RLE:
    """The union of rings, each ``[x0, y0, x1, y1, ...]`` in pixels, filled as pycocotools does.

    Raises:
        ValueError: if a ring has fewer than three corners, half a corner, or one that is no number.
    """
    _check_size([height, width])
    flat = [_ring(ring, index) for index, ring in enumerate(rings)]
    return {"size": [height, width], "counts": _codec.from_polygons(flat, height, width)}


def to_polygons(rle: Mapping[str, Any]) -> list[list[float]]:
    """Rings ``[x0, y0, x1, y1, ...]`` that fill to exactly this mask; holes are joined by a slit.

    Raises:
        ValueError: if the mask is malformed.
    """
    return _codec.to_polygons(*_parts(rle))


def _ring(ring: Any, index: int) -> list[float]:
    try:
        numbers = np.asarray(ring)
    except ValueError:
        numbers = np.asarray(None)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise ValueError(
            f"rle: expected a flat list of numbers in ring {index}, got {_short(ring)}"
        )
    return numbers.astype(np.float64).tolist()


def _check_size(size: Any) -> tuple[int, int]:
    numbers = list(size) if isinstance(size, Sequence | np.ndarray) else None
    if (
        numbers is None
        or len(numbers) != 2
        or not all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in numbers)
    ):
        raise ValueError(f"rle: expected size [height, width] of two integers, got {size!r}")
    height, width = (int(number) for number in numbers)
    if not (0 <= height < 2**31 and 0 <= width < 2**31):
        raise ValueError(f"rle: expected size of numbers in [0, 2**31), got {[height, width]}")
    return height, width


def _parts(rle: Mapping[str, Any]) -> tuple[bytes, int, int]:
    """Counts in compressed form (not looked into), height and width."""
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        raise ValueError(f"rle: expected a dict with size and counts, got {_short(rle)}")
    height, width = _check_size(rle["size"])
    counts = rle["counts"]
    if isinstance(counts, str):
        try:
            counts = counts.encode("ascii")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"rle: expected a byte in [48, 111] at byte {error.start} of counts, "
                f"got {counts[error.start]!r}"
            ) from None
    if isinstance(counts, bytes):
        return counts, height, width
    if not isinstance(counts, Sequence | np.ndarray):
        raise ValueError(f"rle: expected counts of bytes, str or a list, got {_short(counts)}")
    for index, run in enumerate(counts):
        integer = isinstance(run, int | np.integer) and not isinstance(run, bool)
        if not integer or not 0 <= run < 2**31:
            raise ValueError(
                f"rle: expected an integer in [0, 2**31) at index {index} of counts, "
                f"got {_short(run)}"
            )
    return _codec.compress([int(run) for run in counts], height, width), height, width


def _parts_of_one_image(rles: Sequence[Mapping[str, Any]]) -> tuple[list[bytes], int, int]:
    if not rles:
        raise ValueError("rle: expected at least one mask, got none")
    parts = [_parts(rle) for rle in rles]
    first = parts[0][1:]
    for index, (_, *size) in enumerate(parts):
        if tuple(size) != first:
            raise ValueError(
                f"rle: expected masks of one size {list(first)}, got {size} at index {index}"
            )
    return [counts for counts, _, _ in parts], *first


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
