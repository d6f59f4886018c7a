"""The built-in data sets: scenes of shapes, made from a seed, written as COCO folders."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dynamask import rle
from dynamask.data.outlines import CLASSES, Ring
from dynamask.data.scenes import SceneStyle, Shape, make_scene

# part of the folder's name: data made by an older version of this file is never taken for new
VERSION = 1
SPLITS = ("train", "val")


@dataclass(frozen=True)
class ShapesPreset:
    """A data set to make: how many scenes per split, in which style and file format."""

    train: int
    val: int
    style: SceneStyle
    suffix: str


PRESETS: dict[str, ShapesPreset] = {
    # small enough to learn in minutes without a GPU
    "shapes-mini": ShapesPreset(
        train=120,
        val=40,
        suffix=".png",
        style=SceneStyle(
            side=192,
            classes=("ring", "star", "leaf", "comb", "tree", "spiral"),
            count=(3, 7),
            sizes=(28, 120),
            rotation=math.pi / 6,
            overlap=0.15,
            distance=110,
            texture=(0, 14),
            noise=(2, 5),
            blur=(0, 0.5),
            contrast=(0.85, 1.15),
            clutter=(0, 0),
        ),
    ),
    "shapes": ShapesPreset(
        train=2000,
        val=500,
        suffix=".jpg",
        style=SceneStyle(
            side=512,
            classes=tuple(CLASSES),
            count=(5, 14),
            sizes=(24, 320),
            rotation=math.pi,
            overlap=0.4,
            distance=70,
            texture=(4, 30),
            noise=(2, 8),
            blur=(0, 1.0),
            contrast=(0.6, 1.15),
            clutter=(0, 6),
        ),
    ),
    "shapes-hard": ShapesPreset(
        train=2000,
        val=500,
        suffix=".jpg",
        style=SceneStyle(
            side=512,
            classes=tuple(CLASSES),
            count=(8, 24),
            sizes=(20, 320),
            rotation=math.pi,
            overlap=0.9,
            distance=35,
            texture=(8, 45),
            noise=(4, 16),
            blur=(0, 2.0),
            contrast=(0.35, 1.1),
            clutter=(6, 30),
        ),
    ),
}


def shapes_folder(preset: str) -> Path:
    """Where a built-in data set lives: ``$DYNAMASK_CACHE``, or else ``~/.cache/dynamask``."""
    cache = os.environ.get("DYNAMASK_CACHE")
    root = Path(cache) if cache else Path.home() / ".cache" / "dynamask"
    return root / f"{preset}-v{VERSION}"


def make_shapes(
    preset: str,
    folder: str | Path | None = None,
    *,
    seed: int = 0,
    train: int | None = None,
    val: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a built-in data set as a COCO folder, unless it is there already.

    The folder appears whole or not at all, so whatever is found there is complete. The same seed
    gives the same bytes, on one version of NumPy and Pillow.

    Besides COCO's own fields every annotation says how intricate its outline is (``detail``, 0 to
    1), which share of it shows (``visibility``) and where its whole outline runs
    (``amodal_segmentation``, rings in pixels). Masks are run lengths of the visible pixels.
    Instances that are nearly hidden are marked ``iscrowd``.

    Args:
        preset: ``"shapes-mini"``, ``"shapes"`` or ``"shapes-hard"``.
        folder: Where to; by default ``shapes_folder(preset)``.
        seed: Other seeds give other scenes of the same kind.
        train: Number of training scenes, if not the preset's.
        val: Number of validation scenes, if not the preset's.
        progress: Called with (scenes done, scenes in all) after every scene.

    Returns:
        The folder.

    Raises:
        ValueError: if there is no such preset, or the folder holds something else.
    """
    if preset not in PRESETS:
        raise ValueError(f"shapes: expected one of {', '.join(PRESETS)}, got {preset!r}")
    plan = PRESETS[preset]
    counts = {
        "train": plan.train if train is None else train,
        "val": plan.val if val is None else val,
    }
    origin = {"preset": preset, "version": VERSION, "seed": seed, **counts}
    folder = shapes_folder(preset) if folder is None else Path(folder)
    if _holds(folder, origin):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        for split in SPLITS:
            done = 0 if split == "train" else counts["train"]
            _write_split(unfinished, split, plan, counts, origin, done, progress)
        os.chmod(unfinished, 0o755)
        _move(unfinished, folder, origin)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _holds(folder: Path, origin: dict[str, Any]) -> bool:
    """Whether the folder holds just this data set already.

    Raises:
        ValueError: if it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        text = (folder / "annotations" / "val.json").read_text(encoding="utf-8")
        found = json.loads(text)["info"]["shapes"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != origin:
        raise ValueError(
            f"shapes: {folder} holds other files than the data set {origin}\n"
            "  fix: name an empty folder, or delete this one"
        )
    return True


def _move(unfinished: Path, folder: Path, origin: dict[str, Any]) -> None:
    try:
        os.replace(unfinished, folder)
    except OSError:
        # another process was faster: its folder is as good as ours
        if not _holds(folder, origin):
            raise


def _write_split(
    folder: Path,
    split: str,
    plan: ShapesPreset,
    counts: dict[str, int],
    origin: dict[str, Any],
    done: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    (folder / "images" / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(counts[split]):
        rng = np.random.default_rng([origin["seed"], SPLITS.index(split), number])
        picture, shapes = make_scene(plan.style, rng)
        name = f"{number + 1:06d}{plan.suffix}"
        # quality is JPEG's, and PNG does without
        quality = int(rng.integers(70, 96))
        Image.fromarray(picture).save(folder / "images" / split / name, quality=quality)
        height, width = picture.shape[:2]
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
        for shape in shapes:
            annotations.append(_annotation(shape, len(annotations) + 1, number + 1))
        if progress:
            progress(done + number + 1, sum(counts.values()))
    content = {
        "info": {"description": f"dynamask {origin['preset']} {split}", "shapes": origin},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": label + 1, "name": name} for label, name in enumerate(plan.style.classes)
        ],
    }
    path = folder / "annotations" / f"{split}.json"
    path.write_text(json.dumps(content), encoding="utf-8")


def _annotation(shape: Shape, number: int, image: int) -> dict[str, Any]:
    rows, columns = np.flatnonzero(shape.mask.any(1)), np.flatnonzero(shape.mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    run_lengths = rle.encode(shape.mask)
    return {
        "id": number,
        "image_id": image,
        "category_id": shape.label + 1,
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "area": int(shape.mask.sum()),
        "iscrowd": int(shape.is_hidden),
        "segmentation": {
            "size": list(shape.mask.shape),
            "counts": run_lengths["counts"].decode("ascii"),
        },
        "detail": round(shape.detail, 4),
        "visibility": round(shape.visibility, 4),
        "amodal_segmentation": [_written(ring) for ring in shape.outline],
    }


def _written(ring: Ring, tolerance: float = 0.05) -> list[float]:
    """Corners, without those that the line past them comes as close to."""
    corners = ring.tolist()
    kept, passed = [corners[0]], []
    for corner, following in pairwise(corners[1:] + corners[:1]):
        passed.append(corner)
        if any(_distance(point, kept[-1], following) > tolerance for point in passed):
            kept.append(corner)
            passed = []
    return [round(number, 2) for corner in kept for number in corner]


def _distance(point: list[float], start: list[float], end: list[float]) -> float:
    """From a point to the line through two others."""
    x, y = end[0] - start[0], end[1] - start[1]
    length = math.hypot(x, y)
    if length == 0:
        return math.dist(point, start)
    return abs((point[0] - start[0]) * y - (point[1] - start[1]) * x) / length
