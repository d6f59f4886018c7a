"""What a detector says about one image: boxes, scores, classes and compact masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dynamask.ops import RaggedMasks, encode_masks, paste_masks

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class Prediction:
    """The instances found in one image.

    Masks stay as small as the model made them: a grid of probabilities over each box. They become
    run lengths, outlines or full pictures only when one of the methods below is called.

    Attributes:
        boxes: (x0, y0, x1, y1) in pixels of the image [N, 4]; (0, 0) is the top left corner of the
            top left pixel.
        scores: Confidence [N], between 0 and 1.
        labels: Class [N] int64, in [0, number of classes).
        masks: One square grid of probabilities per instance, each over its box.
        image_size: (height, width) of the image.
        classes: Names by class, where they are known.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: RaggedMasks
    image_size: tuple[int, int]
    classes: Sequence[str] = ()

    def __post_init__(self) -> None:
        count = self.boxes.shape[0]
        rows = {"scores": self.scores, "labels": self.labels, "masks": self.masks.sizes}
        for name, value in rows.items():
            if value.shape[0] != count:
                raise ValueError(f"Prediction: expected {count} {name}, got {value.shape[0]}")

    def __len__(self) -> int:
        return self.boxes.shape[0]

    @property
    def mask_size(self) -> Tensor:
        """Side of each mask's grid [N] int64: the resolution that was chosen for the instance."""
        return self.masks.sizes

    @property
    def names(self) -> list[str]:
        """Class name of each instance; the number of the class where names are not known."""
        classes = self.classes
        return [classes[k] if k < len(classes) else str(k) for k in self.labels.tolist()]

    def select(self, index: Tensor) -> Prediction:
        """The instances at ``index`` (positions [K] or a mask [N]), in that order."""
        positions = torch.arange(len(self), device=index.device)[index].tolist()
        parts = self.masks.split()
        values = [self.masks.values[:0]] + [parts[n].flatten() for n in positions]
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            masks=RaggedMasks(torch.cat(values), self.masks.sizes[index]),
        )

    def to(self, device: torch.device | str) -> Prediction:
        """The same prediction on another device."""
        return replace(
            self,
            boxes=self.boxes.to(device),
            scores=self.scores.to(device),
            labels=self.labels.to(device),
            masks=RaggedMasks(self.masks.values.to(device), self.masks.sizes.to(device)),
        )

    def resized(self, height: int, width: int) -> Prediction:
        """For the same image at another size: boxes are scaled, mask grids stay as they are."""
        scale_y, scale_x = height / self.image_size[0], width / self.image_size[1]
        scale = self.boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
        return replace(self, boxes=self.boxes * scale, image_size=(height, width))

    def rle(self, threshold: float = 0.5) -> list[dict[str, Any]]:
        """Masks as COCO run lengths ``{"size": [height, width], "counts": bytes}``."""
        return encode_masks(self.masks, self.boxes, self.image_size, threshold)

    def polygons(self, threshold: float = 0.5) -> list[list[list[float]]]:
        """Masks as outlines: per instance a list of rings ``[x0, y0, x1, y1, ...]`` in pixels."""
        from dynamask.rle import to_polygons

        return [to_polygons(run_lengths) for run_lengths in self.rle(threshold)]

    def dense(self, threshold: float = 0.5) -> Tensor:
        """Masks as full pictures [N, height, width] bool: large, height * width bytes each."""
        return paste_masks(self.masks, self.boxes, self.image_size, threshold)

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """As entries of a COCO results file.

        Args:
            image_id: Id of the image in its data set.
            category_ids: The data set's own category id of each class.

        Returns:
            One entry per instance with ``image_id``, ``category_id``, ``bbox`` (x, y, width,
            height), ``score``, ``segmentation`` (run lengths, ``counts`` a str, so that the list
            goes through ``json.dumps``) and ``mask_size``.
        """
        entries = []
        columns = (self.boxes.tolist(), self.scores.tolist(), self.labels.tolist())
        for box, score, label, run_lengths, size in zip(
            *columns, self.rle(), self.mask_size.tolist()
        ):
            x0, y0, x1, y1 = box
            counts = run_lengths["counts"].decode("ascii")
            entries.append(
                {
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": score,
                    "segmentation": {"size": list(run_lengths["size"]), "counts": counts},
                    "mask_size": size,
                }
            )
        return entries

    def to_supervision(self) -> Any:
        """As ``supervision.Detections``; masks become full pictures, which that library takes.

        Raises:
            ImportError: if supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise ImportError("to_supervision needs `pip install supervision`") from error
        return Detections(
            xyxy=self.boxes.float().cpu().numpy(),
            mask=self.dense().cpu().numpy(),
            confidence=self.scores.float().cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            data={
                "class_name": np.array(self.names, dtype=str),
                "mask_size": self.mask_size.cpu().numpy(),
            },
        )

    def plot(
        self,
        image: Any,
        color_by: str = "mask_size",
        *,
        scale: int = 1,
        labels: bool = True,
        legend: bool = True,
    ) -> Image:
        """Draws the masks over the image.

        Args:
            image: The image: tensor [3, H, W] (uint8, or float in 0..1), array [H, W, 3] or a
                Pillow image.
            color_by: What a colour stands for: ``"mask_size"``, ``"class"`` or ``"instance"``.
            scale: How many times larger than the image to draw: masks are drawn from their grids
                at that size, so small images show what the grids hold.
            labels: Write name and score at each instance.
            legend: Say in a corner which colour is which mask size (for ``"mask_size"`` alone).

        Returns:
            A Pillow image.

        Raises:
            ValueError: if the image has not the size of the prediction, or ``color_by`` is unknown.
        """
        from dynamask.drawing import draw_prediction

        return draw_prediction(
            self, image, color_by=color_by, scale=scale, labels=labels, legend=legend
        )
