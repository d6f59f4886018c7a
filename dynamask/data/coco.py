"""Data sets in COCO's format: classes counted from 0 inside, the file's own ids outside."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dynamask.data.checks import DataError, Fault, OnError, find_faults, read_annotations, report
from dynamask.data.images import MAX_PIXELS, read_image
from dynamask.data.layout import find_layout, images_folder
from dynamask.data.segmentation import as_text, clip_outline, outline_area, outline_box, rings_of
from dynamask.ops import Polygons

Target = dict[str, Any]


def open_dataset(
    source: str | Path,
    split: str,
    *,
    images: str | Path | None = None,
    on_error: OnError = "stop",
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> CocoDataset:
    """Opens a data set and checks it whole.

    Args:
        source: A folder in one of the layouts of ``find_layout``; or an annotation file, with
            ``images``; or ``"shapes-mini"``, ``"shapes"`` or ``"shapes-hard"``, which are made on
            first use (a folder of such a name is meant by ``"./shapes"``).
        split: ``"train"`` or ``"val"``.
        images: Folder with the images, where ``source`` is an annotation file or keeps its images
            elsewhere.
        on_error: ``"stop"`` at images and annotations that cannot be used, or ``"skip"`` them.
        max_pixels: Largest image allowed.
        progress: Called with (scenes done, scenes in all) while shapes are made.

    Raises:
        DataError: if there is no data set, or with ``"stop"`` if anything in it cannot be used.
    """
    if split not in ("train", "val"):
        raise DataError(f"data: expected the split 'train' or 'val', got {split!r}")
    if isinstance(source, str) and source.startswith("shapes"):
        from dynamask.data.shapes import PRESETS, make_shapes

        if source in PRESETS:
            source = make_shapes(source, progress=progress)
    source = Path(source)
    if source.suffix == ".json":
        annotations, places = source, [source.parent]
    else:
        annotations, places = find_layout(source, split)
    if images is not None:
        if not Path(images).is_dir():
            raise DataError(f"data: there is no folder {images}")
        places = [Path(images)]
    return CocoDataset(annotations, places, split, on_error=on_error, max_pixels=max_pixels)


class CocoDataset(Dataset):
    """Images with instances, from a COCO annotation file.

    ``dataset[i]`` is (image [3, H, W] uint8, target), the target a dict with

    * ``boxes``: (x0, y0, x1, y1) in pixels [G, 4] float32, inside the image;
    * ``labels``: classes [G] int64, in [0, len(classes));
    * ``polygons``: outlines in the same pixels. Run lengths are traced to outlines of the same
      pixels;
    * ``image_id``: the file's id of the image;
    * ``original_size``: (height, width).

    Crowd annotations are no targets, but they are in ``ground_truth``.

    Attributes:
        classes: Names of the classes.
        category_ids: The file's id of each class.
        image_ids: The file's id of each image.
        ground_truth: What evaluation compares to: the file's content without what was skipped,
            with the fields filled in that may be absent, and annotation ids above 0.
        skipped: Images and annotations that were left out as unusable.
        fingerprint: SHA-256 of the annotation file.

    Args:
        annotations: The JSON file.
        images: Folder with the images, or several of which the first that fits is taken.
        split: For messages, and ``"train"`` needs annotations.
        on_error: ``"stop"`` at images and annotations that cannot be used, or ``"skip"`` them.
        max_pixels: Largest image allowed.

    Raises:
        DataError: if the file is no COCO, or with ``"stop"`` if anything in it cannot be used; the
            message lists all that cannot.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path | list[Path],
        split: str = "train",
        *,
        on_error: OnError = "stop",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if on_error not in ("stop", "skip"):
            raise DataError(f"data: expected on_error 'stop' or 'skip', got {on_error!r}")
        self.annotations = Path(annotations)
        self.split = split
        self.max_pixels = max_pixels
        content = read_annotations(self.annotations)
        if not content["images"]:
            raise DataError(f"data: {self.annotations} has no images: the data set is empty")
        places = images if isinstance(images, list) else [Path(images)]
        self.images = images_folder(places, content["images"][0].get("file_name"))
        self.skipped = find_faults(content, self.images, max_pixels)
        if self.skipped and on_error == "stop":
            raise DataError(
                f"{report(self.skipped, self.annotations)}\n  fix: correct the file, or go on "
                "without them: on_error 'skip' (--data.on_error skip)"
            )
        if self.skipped:
            warnings.warn(f"{report(self.skipped, self.annotations)}\n  skipped", stacklevel=2)
            _drop(content, self.skipped)
        self.fingerprint = hashlib.sha256(self.annotations.read_bytes()).hexdigest()
        self._fill(content)
        if not self.image_ids or (split == "train" and not any(self._targets)):
            lacks = "annotations" if self.image_ids else "images"
            raise DataError(
                f"data: {self.annotations} has no usable {lacks}: nothing to learn from"
            )

    def _fill(self, content: dict[str, Any]) -> None:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.ground_truth = content
        self.classes: list[str] = [category["name"] for category in categories]
        self.category_ids: list[int] = [category["id"] for category in categories]
        self.image_ids: list[int] = [image["id"] for image in content["images"]]
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        _complete(content["annotations"], sizes)
        label = {number: k for k, number in enumerate(self.category_ids)}
        position = {number: i for i, number in enumerate(self.image_ids)}
        self._targets: list[list[tuple[dict[str, Any], int]]] = [[] for _ in self.image_ids]
        for annotation in content["annotations"]:
            if not annotation["iscrowd"]:
                row = self._targets[position[annotation["image_id"]]]
                row.append((annotation, label[annotation["category_id"]]))

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.image(index), self.target(index)

    def image_path(self, index: int) -> Path:
        """File of an image."""
        return self.images / self.ground_truth["images"][index]["file_name"]

    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image, without reading it."""
        image = self.ground_truth["images"][index]
        return image["height"], image["width"]

    def image(self, index: int) -> Tensor:
        """Pixels of an image [3, H, W] uint8.

        Raises:
            DataError: if the file cannot be read, or has not the size the annotations are for.
        """
        size = self.image_size(index)
        return read_image(self.image_path(index), size, max_pixels=self.max_pixels)

    def target(self, index: int) -> Target:
        """What is to be found in an image, without reading it."""
        height, width = self.image_size(index)
        rows = self._targets[index]
        outlines = [rings_of(annotation["segmentation"]) for annotation, _ in rows]
        boxes = torch.tensor([annotation["bbox"] for annotation, _ in rows]).view(-1, 4).float()
        boxes[:, 2:] += boxes[:, :2]
        limits = boxes.new_tensor([width, height, width, height])
        return {
            "boxes": torch.minimum(boxes.clamp(min=0), limits),
            "labels": torch.tensor([label for _, label in rows], dtype=torch.int64),
            "polygons": Polygons.of(outlines),
            "image_id": self.image_ids[index],
            "original_size": (height, width),
        }

    def subset(self, index: Iterable[int]) -> CocoDataset:
        """The same data set with these images alone, in this order."""
        chosen = list(index)
        images = [self.ground_truth["images"][i] for i in chosen]
        kept = {image["id"] for image in images}
        annotations = self.ground_truth["annotations"]
        part = copy.copy(self)
        part._fill(
            {
                **self.ground_truth,
                "images": images,
                "annotations": [a for a in annotations if a["image_id"] in kept],
            }
        )
        return part


def same_classes(train: CocoDataset, val: CocoDataset) -> None:
    """Raises DataError unless two splits count the same classes in the same order."""
    if (train.classes, train.category_ids) == (val.classes, val.category_ids):
        return
    pairs = [set(zip(split.category_ids, split.classes)) for split in (train, val)]
    only = [
        ", ".join(f"{name} ({k})" for k, name in sorted(a - b)) for a, b in (pairs, pairs[::-1])
    ]
    raise DataError(
        f"data: {train.annotations} and {val.annotations} have different categories\n"
        f"  only in the first: {only[0] or 'none'}\n  only in the second: {only[1] or 'none'}\n"
        "  fix: give both files the same list of categories"
    )


def _drop(content: dict[str, Any], faults: list[Fault]) -> None:
    """Takes out the faulty entries, and the annotations of faulty images, in place."""
    dropped = {(fault.kind, fault.index) for fault in faults}
    for kind, key in (("image", "images"), ("annotation", "annotations")):
        content[key] = [e for k, e in enumerate(content[key]) if (kind, k) not in dropped]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]


def _complete(annotations: list[dict[str, Any]], sizes: dict[int, tuple[int, int]]) -> None:
    """Fills in what evaluation needs and a file may leave out, in place."""
    # the evaluators of pycocotools' line take an annotation with id 0 for a missing match
    renumber = any((annotation.get("id") or 0) < 1 for annotation in annotations)
    for number, annotation in enumerate(annotations):
        if renumber:
            annotation["id"] = number + 1
        height, width = sizes[annotation["image_id"]]
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            segmentation = clip_outline(segmentation, height, width)
        else:
            segmentation = as_text(segmentation)
        annotation["segmentation"] = segmentation
        annotation["iscrowd"] = int(annotation.get("iscrowd") or 0)
        if annotation.get("bbox") is None:
            annotation["bbox"] = outline_box(segmentation)
        if annotation.get("area") is None:
            annotation["area"] = outline_area(segmentation)
