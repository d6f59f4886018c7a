"""What is in these images?"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dynamask.checkpoint import choose_mask_size, load_model
from dynamask.data.images import SUFFIXES, read_image
from dynamask.data.transforms import EvalTransform
from dynamask.device import pick_device, pick_dtype
from dynamask.errors import InputError
from dynamask.files import write_atomic
from dynamask.ops import Polygons
from dynamask.prediction import Prediction
from dynamask.progress import Progress, say

if TYPE_CHECKING:
    from dynamask.models.detector import Detector

FORMATS = ("coco", "png", "masks", "mask-png")


@torch.no_grad()
def predict(
    model: Detector,
    images: Sequence[Any],
    *,
    short_side: int,
    max_side: int,
    score: float = 0.5,
    batch_size: int = 1,
    classes: Sequence[str] = (),
    precision: str = "fp32",
) -> list[Prediction]:
    """The objects in each image, in the pixels of that image.

    Args:
        model: The network, on any device, or an inference form of it, which is used as it is.
        images: Each a path, a Pillow image, an array [H, W, 3] uint8 or a tensor [3, H, W] (uint8,
            or float in 0..1).
        short_side: Images are resized to this shorter side, unless
        max_side: would be exceeded by the longer one. In pixels.
        score: Objects below it are left out.
        batch_size: Images in a batch.
        classes: Names of the classes, to go with the predictions.
        precision: Of weights and feature maps: fp32 or bf16.
    """
    network = model if model.is_fused else model.fused(pick_dtype(precision))
    device = next(network.parameters()).device
    transform = EvalTransform(short_side, max_side)
    out: list[Prediction] = []
    for first in range(0, len(images), batch_size):
        pixels = [as_pixels(image) for image in images[first : first + batch_size]]
        resized = [transform(image, _nothing_known())[0].to(device) for image in pixels]
        for image, found in zip(pixels, network(resized)):
            found = found.to("cpu").select(found.scores.cpu() >= score)
            found = found.resized(image.shape[1], image.shape[2])
            found.classes = tuple(classes)
            out.append(found)
    return out


def as_pixels(image: Any) -> Tensor:
    """Any image as a tensor [3, H, W] uint8 (or float in 0..1, where one is given)."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"predict: expected an image [3, H, W], got {list(image.shape)}")
        return image if image.dtype == torch.uint8 else (image * 255).round().byte()
    if hasattr(image, "convert"):
        image = np.asarray(image.convert("RGB"))
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"predict: expected an array [H, W, 3] of uint8, got {list(image.shape)} {image.dtype}"
        )
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def predict_files(
    source: str | Path,
    images: Iterable[str | Path],
    out: str | Path,
    *,
    formats: Sequence[str] = ("coco", "png"),
    score: float = 0.5,
    color_by: str = "mask_size",
    batch_size: int = 1,
    mask_size: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> list[str]:
    """Finds the objects in image files and writes them to a folder.

    Args:
        source: Run folder, weights file or name of bundled weights.
        images: Files, folders (with all below them) and globs.
        out: Folder for the results.
        formats: Of coco (one predictions.json with category ids of the training data), png
            (overlays), masks (.npz with masks [N, H, W], boxes, scores, labels per image) and
            mask-png (16-bit picture per image: 0 background, k the k-th instance).
        score: Objects below it are left out.
        color_by: What a colour stands for in overlays: mask_size, class or instance.
        batch_size: Images in a batch.
        mask_size: Give every instance this mask size instead of choosing.
        device: cpu, cuda, or auto.
        precision: Of weights and feature maps: fp32 or bf16.

    Returns:
        Why each unreadable image was skipped; empty if all were read.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"predict: no format {name!r}; there are {', '.join(FORMATS)}")
    if not formats:
        raise InputError(f"predict: no format given; there are {', '.join(FORMATS)}")
    model, meta = load_model(source)
    files = find_images(images)
    if mask_size is not None:
        choose_mask_size(model, mask_size)
    network = model.to(pick_device(device)).fused(pick_dtype(precision))
    del model
    out = Path(out)
    unreadable: list[str] = []
    records: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    names = _output_names(files)
    with Progress("predict", len(files)) as progress:
        for first in range(0, len(files), batch_size):
            batch = []
            for index in range(first, min(first + batch_size, len(files))):
                try:
                    batch.append((index, read_image(files[index])))
                except (ValueError, OSError) as error:
                    unreadable.append(str(error))
            found = predict(
                network,
                [image for _, image in batch],
                short_side=meta.config.data.eval_short_side,
                max_side=meta.config.data.max_side,
                score=score,
                batch_size=batch_size,
                classes=meta.classes,
            )
            for (index, image), prediction in zip(batch, found):
                height, width = prediction.image_size
                records.append(
                    {"id": index + 1, "file_name": str(files[index])}
                    | {"height": height, "width": width}
                )
                if "coco" in formats:
                    results += prediction.to_coco(index + 1, meta.category_ids)
                _write_pictures(out / names[index], image, prediction, formats, color_by)
            progress.update(min(first + batch_size, len(files)))
    if "coco" in formats:
        categories = [
            {"id": number, "name": name} for number, name in zip(meta.category_ids, meta.classes)
        ]
        # images and categories beside the results, since files may have no ids of their own
        content = {"images": records, "categories": categories, "annotations": results}
        write_atomic(out / "predictions.json", json.dumps(content))
    say(f"{len(records)} of {len(files)} images done, results in {out}")
    return unreadable


def find_images(sources: Iterable[str | Path]) -> list[Path]:
    """Image files named, in folders, or matching globs, each once, sorted within its source.

    Raises:
        InputError: for a source without any image.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            files = [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
        elif path.exists():
            files = [path]
        else:
            files = [Path(name) for name in glob.glob(str(source), recursive=True)]
            files = [p for p in files if p.is_file()]
        if not files:
            what = "folder has no image in it" if path.is_dir() else "no such file or folder"
            raise InputError(f"predict: {source}: {what}")
        found.update(dict.fromkeys(sorted(files)))
    return list(found)


def _output_names(files: Sequence[Path]) -> list[str]:
    """Stems of output files: that of each image, numbered where two images share it."""
    names: list[str] = []
    used: set[str] = set()
    for path in files:
        name, number = path.stem, 1
        while name in used:
            number += 1
            name = f"{path.stem}-{number}"
        used.add(name)
        names.append(name)
    return names


def _write_pictures(
    stem: Path, image: Tensor, prediction: Prediction, formats: Sequence[str], color_by: str
) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    if "png" in formats:
        prediction.plot(image, color_by=color_by).save(f"{stem}.png")
    if "masks" in formats:
        np.savez_compressed(
            f"{stem}.npz",
            masks=prediction.dense().numpy(),
            boxes=prediction.boxes.numpy(),
            scores=prediction.scores.numpy(),
            labels=prediction.labels.numpy(),
            names=np.array(prediction.names, dtype=str),
            mask_size=prediction.mask_size.numpy(),
        )
    if "mask-png" in formats:
        _instance_numbers(prediction).save(f"{stem}.instances.png")


def _instance_numbers(prediction: Prediction) -> Any:
    """A picture that holds at each pixel the number, from 1, of its instance; the best on top."""
    from PIL import Image

    numbers = np.zeros(prediction.image_size, np.uint16)
    masks = prediction.dense().numpy()
    for index in prediction.scores.argsort().tolist():
        numbers[masks[index]] = index + 1
    return Image.fromarray(numbers)


def _nothing_known() -> dict[str, Any]:
    return {"boxes": torch.zeros(0, 4), "polygons": Polygons.of([])}
