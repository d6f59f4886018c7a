from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from dynamask.models.instances import Instances
from dynamask.ops import Polygons, RaggedMasks


class MaskBranch(Protocol):
    """What a detector asks of its mask branch, a module without boxes, NMS or backbone.

    ``codes`` are whatever the branch finds useful to describe the mask of each instance.
    """

    def context(
        self, features: list[Tensor], image_sizes: Sequence[tuple[int, int]] | Tensor
    ) -> Any:
        """What the branch needs of a batch, computed once from the maps P2 ... P6."""

    def __call__(self, context: Any, instances: Instances) -> Any:
        """The codes of instances, in training and inference."""

    def loss(
        self, codes: Any, context: Any, instances: Instances, targets: tuple[Polygons, Tensor]
    ) -> dict[str, Tensor]:
        """Losses by name; ``targets`` are the outlines of the batch and the one of each RoI."""

    def decode(
        self, codes: Any, instances: Instances, image_sizes: Sequence[tuple[int, int]]
    ) -> RaggedMasks:
        """Probabilities within the box of each instance, in the order of the instances."""
