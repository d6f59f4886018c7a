"""Is this COCO? All faults of an annotation file, found at once and told with id and image."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from dynamask import rle
from dynamask.errors import InputError

OnError = Literal["stop", "skip"]
SHOWN = 20


class DataError(InputError):
    """A data set that cannot be used. The message says what, where and the fix."""


@dataclass(frozen=True)
class Fault:
    """Something that keeps one image or annotation from being used.

    Attributes:
        kind: ``"image"`` or ``"annotation"``.
        index: Its position in the file's list of images or annotations.
        where: Its id and image, for people.
        what: What is wrong.
    """

    kind: str
    index: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def report(faults: list[Fault], path: Path) -> str:
    """The faults as a paragraph: how many, where, which; at most twenty in full."""
    kinds = [
        f"{count} {kind}{'s' if count > 1 else ''}"
        for kind in ("image", "annotation")
        if (count := sum(fault.kind == kind for fault in faults))
    ]
    lines = [f"data: {' and '.join(kinds)} cannot be used in {path}"]
    lines += [f"  {fault}" for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        lines.append(f"  ... and {len(faults) - SHOWN} more")
    return "\n".join(lines)


def read_annotations(path: Path) -> dict[str, Any]:
    """Reads an annotation file as far as to know that it is COCO's kind of JSON.

    Raises:
        DataError: if it is missing, no UTF-8, no JSON, or not of COCO's structure.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise DataError(f"data: cannot open {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"data: {path} is not UTF-8 text: byte {error.start} is wrong\n"
            "  fix: name the annotation file, a .json; images are named separately"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"data: {path} is no JSON, or only the beginning of it: {error.msg} in line "
            f"{error.lineno}, column {error.colno} (character {error.pos})\n"
            "  fix: copy or download the file again"
        ) from error
    except RecursionError as error:
        raise DataError(f"data: {path} is no COCO file: brackets nest too deeply") from error
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else "a single value"
        raise DataError(
            f"data: {path} holds {kind}, expected an object with 'images', 'annotations' and "
            "'categories'\n  fix: a results file holds a list; name the ground truth instead"
        )
    keys = ("images", "annotations", "categories")
    wrong = [key for key in keys if not isinstance(content.get(key), list)]
    if wrong:
        raise DataError(
            f"data: {path} is no COCO annotation file: it has no list {', '.join(map(repr, wrong))}"
        )
    for key in keys:
        for index, entry in enumerate(content[key]):
            if not isinstance(entry, dict):
                raise DataError(f"data: in {path}, entry {index} of {key!r} is no object")
    _check_categories(content["categories"], path)
    return content


def _check_categories(categories: list[dict[str, Any]], path: Path) -> None:
    seen: set[int] = set()
    for index, category in enumerate(categories):
        number, name = category.get("id"), category.get("name")
        if not _is_int(number) or not isinstance(name, str):
            raise DataError(
                f"data: in {path}, category {index} needs a whole number 'id' and a text 'name', "
                f"got {number!r} and {name!r}"
            )
        if number in seen:
            raise DataError(f"data: in {path}, two categories have the id {number}")
        seen.add(number)
    if not categories:
        raise DataError(f"data: {path} has no categories, so there is nothing to learn")


def find_faults(content: dict[str, Any], images: Path, max_pixels: int) -> list[Fault]:
    """All images and annotations of a COCO file that cannot be used.

    Args:
        content: What ``read_annotations`` returned.
        images: Folder with the image files.
        max_pixels: Largest image allowed.

    Returns:
        The faults, images first, each list in the file's order.
    """
    faults = list(_image_faults(content["images"], images, max_pixels))
    # annotations of a faulty image are judged as well, so that all is said at once
    known = {image["id"]: image for image in content["images"] if _is_int(image.get("id"))}
    categories = {category["id"] for category in content["categories"]}
    seen: set[int] = set()
    for index, annotation in enumerate(content["annotations"]):
        number = annotation.get("image_id")
        image = known.get(number) if _is_int(number) else None
        what = _annotation_fault(annotation, image, categories, seen)
        if what:
            faults.append(Fault("annotation", index, _where(index, annotation, image), what))
    return faults


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _has_size(image: dict[str, Any]) -> bool:
    return all(_is_int(side) and side > 0 for side in (image.get("height"), image.get("width")))


def _where(index: int, annotation: dict[str, Any], image: dict[str, Any] | None) -> str:
    number = annotation.get("id")
    where = f"id {number}" if number is not None else f"annotation number {index}"
    return f"{where} (image {image['id']} {image.get('file_name')!r})" if image else where


def _image_faults(images: list[dict[str, Any]], folder: Path, max_pixels: int) -> Iterator[Fault]:
    files = _Files(folder)
    seen: set[int] = set()
    for index, image in enumerate(images):
        number, name = image.get("id"), image.get("file_name")
        what = None
        if not _is_int(number):
            what = f"its 'id' {number!r} is no whole number"
        elif number in seen:
            what = "another image has the same id"
        elif not _has_size(image):
            what = (
                f"'width' {image.get('width')!r} and 'height' {image.get('height')!r} "
                "are not two positive whole numbers"
            )
        elif image["width"] * image["height"] > max_pixels:
            what = (
                f"{image['width']} x {image['height']} pixels are more than "
                f"max_pixels = {max_pixels}"
            )
        else:
            what = files.fault(name)
        if what:
            yield Fault("image", index, f"image {number} {name!r}", what)
        if _is_int(number):
            seen.add(number)


class _Files:
    """The files of an image folder, listed once: asking for each would be slow on network disks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = os.path.realpath(folder)
        try:
            with os.scandir(folder) as entries:
                self.plain = {
                    entry.name for entry in entries if entry.is_file(follow_symlinks=False)
                }
        except OSError:
            self.plain = set()

    def fault(self, name: Any) -> str | None:
        """What is wrong with a file name, or None."""
        if not isinstance(name, str) or not name:
            return f"its 'file_name' {name!r} is no text"
        if name in self.plain:
            return None
        if "\0" in name:
            return "its 'file_name' holds a NUL character"
        if os.path.isabs(name) or name.startswith("\\") or name[1:2] == ":":
            return "its 'file_name' is an absolute path, expected one inside the image folder"
        path = os.path.realpath(os.path.join(self.root, name))
        if os.path.commonpath([path, self.root]) != self.root:
            return f"its 'file_name' leads out of the image folder, to {path}"
        if not os.path.isfile(path):
            return f"there is no such file in {self.folder}"
        return None


def _annotation_fault(
    annotation: dict[str, Any],
    image: dict[str, Any] | None,
    categories: set[int],
    seen: set[int],
) -> str | None:
    number = annotation.get("id")
    if number is not None:
        if not _is_int(number):
            return f"its 'id' {number!r} is no whole number"
        if number in seen:
            return "another annotation has the same id"
        seen.add(number)
    if image is None:
        return f"image_id {annotation.get('image_id')!r} is not in 'images'"
    category = annotation.get("category_id")
    if not _is_int(category) or category not in categories:
        return f"category_id {category!r} is not in 'categories'"
    if annotation.get("iscrowd") not in (None, 0, 1):
        return f"'iscrowd' is {annotation['iscrowd']!r}, expected 0 or 1"
    area = annotation.get("area")
    if area is not None and not _is_number(area):
        return f"'area' is {area!r}, expected a number"
    if not _has_size(image):
        return None  # a fault of the image, which takes its annotations along
    height, width = image["height"], image["width"]
    return _box_fault(annotation.get("bbox"), height, width) or _outline_fault(
        annotation.get("segmentation"), height, width
    )


def _is_number(value: Any) -> bool:
    # a whole number beyond the range of floats is none that means anything here
    return isinstance(value, (int, float)) and abs(value) < 1e15


def _box_fault(box: Any, height: int, width: int) -> str | None:
    if box is None:
        return None  # taken from the outline
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"bbox {box!r} is not four finite numbers x, y, width, height"
    x, y, box_width, box_height = box
    if box_width < 0 or box_height < 0:
        return f"bbox {box} has a negative {'width' if box_width < 0 else 'height'}"
    if box_width == 0 or box_height == 0:
        return f"bbox {box} has zero {'width' if box_width == 0 else 'height'}"
    if x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0:
        return f"bbox {box} lies outside the image of {width} x {height} pixels"
    return None


def _outline_fault(segmentation: Any, height: int, width: int) -> str | None:
    if not segmentation:
        return "it has no 'segmentation'; masks are learned from it"
    if isinstance(segmentation, dict):
        return _rle_fault(segmentation, height, width)
    if not isinstance(segmentation, list):
        return "its 'segmentation' is neither a list of polygons nor an RLE object"
    if not isinstance(segmentation[0], list):
        return "its 'segmentation' is a flat list, expected a list of polygons [[x, y, ...], ...]"
    for ring in segmentation:
        if not isinstance(ring, list):
            return "its 'segmentation' mixes polygons and other things"
        try:
            finite = math.isfinite(math.fsum(ring))
        except (TypeError, ValueError, OverflowError):
            finite = False
        if not finite:
            return "a polygon holds NaN, infinity or what is no number"
        if len(ring) % 2:
            return f"a polygon has {len(ring)} numbers, expected pairs of x and y"
        if len(ring) < 6:
            return f"a polygon has {len(ring) // 2} point{'s' * (len(ring) != 2)}, needs 3"
    return None


def _rle_fault(run_lengths: dict[str, Any], height: int, width: int) -> str | None:
    size, counts = run_lengths.get("size"), run_lengths.get("counts")
    if not isinstance(size, list) or not all(map(_is_int, size)) or len(size) != 2:
        return f"its RLE has the size {size!r}, expected [height, width]"
    if size != [height, width]:
        return f"its RLE is for {size[1]} x {size[0]} pixels, the image has {width} x {height}"
    if counts is None:
        return "its RLE has no 'counts'"
    try:
        checked = rle.validate(run_lengths, height, width)
    except ValueError as error:
        return f"its RLE is broken: {str(error).removeprefix('rle: ')}"
    return None if rle.area(checked) else "its RLE is empty: it covers no pixel"
