"""The operators: each a function with the signature of torchvision's where torchvision has one."""

from dynamask import _library  # noqa: F401  (loads the kernels)
from dynamask.ops.bucket_rois import Buckets, bucket_rois
from dynamask.ops.class_logits import class_logits

__all__ = ["Buckets", "bucket_rois", "class_logits"]
