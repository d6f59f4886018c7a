from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dynamask.ops._check import check_dims, check_int


class RaggedMasks(NamedTuple):
    """Square masks of different sizes in one flat buffer.

    Attributes:
        values: All masks, row by row, one after the other [sum of S * S], or a longer buffer: what
            stands after the last mask has no meaning and is not read.
        sizes: Side S of each mask [N] int64.
    """

    values: Tensor
    sizes: Tensor

    @property
    def offsets(self) -> Tensor:
        """Where each mask starts in ``values``, and the end of the last one [N + 1] int64."""
        return torch.cat([self.sizes.new_zeros(1), (self.sizes * self.sizes).cumsum(0)])

    def split(self) -> list[Tensor]:
        """Each mask as a view [S, S]."""
        sizes = self.sizes.tolist()
        lengths = [s * s for s in sizes]
        parts = self.values[: sum(lengths)].split(lengths)
        return [part.view(s, s) for part, s in zip(parts, sizes)]

    def select(self, index: Tensor) -> "RaggedMasks":
        """The masks at ``index``, [K] int64 or [N] bool, in that order."""
        sizes, starts = self.sizes[index], self.offsets[:-1][index]
        lengths = sizes * sizes
        shift = starts - (lengths.cumsum(0) - lengths)  # from the new place to the old one
        shift = shift.repeat_interleave(lengths)
        places = torch.arange(shift.shape[0], device=shift.device) + shift
        return RaggedMasks(self.values[places], sizes)

    @staticmethod
    def cat(many: "Sequence[RaggedMasks]") -> "RaggedMasks":
        """The masks of several, one after the other."""
        if len(many) == 0:
            return RaggedMasks(torch.empty(0), torch.empty(0, dtype=torch.int64))
        values = torch.cat([masks.values[: int(masks.offsets[-1])] for masks in many])
        return RaggedMasks(values, torch.cat([masks.sizes for masks in many]))

    @staticmethod
    def of(masks: "Tensor | RaggedMasks | Sequence[Tensor]", op: str = "masks") -> "RaggedMasks":
        """Takes [N, S, S], a list of [S, S] of any sizes, or ragged masks already.

        Raises:
            ValueError: if a mask is not square.
        """
        if isinstance(masks, RaggedMasks):
            check_dims(op, "masks.values", masks.values, "T")
            check_dims(op, "masks.sizes", masks.sizes, "N")
            check_int(op, "masks.sizes", masks.sizes)
            _check_sizes(op, masks)
            return masks
        if isinstance(masks, Tensor):
            check_dims(op, "masks", masks, "N S S")
            if masks.shape[1] != masks.shape[2]:
                raise ValueError(f"{op}: expected square masks [N, S, S], got {list(masks.shape)}")
            sizes = torch.full((masks.shape[0],), masks.shape[1], device=masks.device)
            return RaggedMasks(masks.flatten(), sizes)
        for mask in masks:
            if mask.dim() != 2 or mask.shape[0] != mask.shape[1]:
                raise ValueError(f"{op}: expected square masks [S, S], got {list(mask.shape)}")
        if len(masks) == 0:
            return RaggedMasks.cat([])
        device = masks[0].device
        sizes = torch.tensor([mask.shape[0] for mask in masks], device=device)
        return RaggedMasks(torch.cat([mask.flatten() for mask in masks]), sizes)


def _check_sizes(op: str, masks: RaggedMasks) -> None:
    if torch.compiler.is_compiling() or masks.sizes.device.type != "cpu":
        return
    sizes = masks.sizes.tolist()
    for row, size in enumerate(sizes):
        if size < 0:
            raise ValueError(f"{op}: expected masks.sizes of at least 0, got {size} in row {row}")
    values = sum(size * size for size in sizes)
    if values > masks.values.shape[0]:
        raise ValueError(
            f"{op}: expected at least {values} masks.values for these sizes, "
            f"got {masks.values.shape[0]}"
        )
