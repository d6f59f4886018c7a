"""Pictures of what a trained network finds."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from dynamask.checkpoint import Meta
from dynamask.data import CocoDataset
from dynamask.files import write_atomic
from dynamask.predict import predict
from dynamask.run_folder import RunFolder

if TYPE_CHECKING:
    from dynamask.models.detector import Detector


def leave_pictures(
    folder: RunFolder, model: Detector, meta: Meta, dataset: CocoDataset, count: int
) -> None:
    """images/val_0001.jpg, ...: left the image, right the masks coloured by their size."""
    config = meta.config
    for index in range(min(count, len(dataset))):
        image = dataset.image(index)
        found = predict(
            model,
            [image],
            short_side=config.data.eval_short_side,
            max_side=config.data.max_side,
            score=config.eval.score,
            classes=meta.classes,
        )[0]
        scale = max(1, round(512 / max(found.image_size)))
        right = found.plot(image, scale=scale)
        left = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(right.size)
        both = Image.new("RGB", (2 * right.width, right.height))
        both.paste(left, (0, 0))
        both.paste(right, (right.width, 0))
        content = io.BytesIO()
        both.save(content, "JPEG", quality=90)
        name = f"{config.eval.split}_{index + 1:04d}.jpg"
        write_atomic(folder.path / "images" / name, content.getvalue())
