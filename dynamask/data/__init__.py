"""COCO folders in, batches out; and data sets of shapes that need no download."""

from dynamask.data.checks import DataError
from dynamask.data.coco import CocoDataset, open_dataset, same_classes
from dynamask.data.images import read_image
from dynamask.data.loader import data_loader, steps_per_epoch
from dynamask.data.shapes import make_shapes
from dynamask.data.transforms import EvalTransform, TrainTransform

__all__ = [
    "CocoDataset",
    "DataError",
    "EvalTransform",
    "TrainTransform",
    "data_loader",
    "make_shapes",
    "open_dataset",
    "read_image",
    "same_classes",
    "steps_per_epoch",
]
