from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Polygons(NamedTuple):
    """The outlines of G instances, each the union of its rings (COCO's ``segmentation`` lists).

    Attributes:
        vertices: Corners as (x, y) in pixels [V, 2]; (0, 0) is the top left corner of the image.
        rings: Where each ring starts in ``vertices``, and the end of the last [R + 1] int64.
        instances: Where each instance starts among the rings, and the end [G + 1] int64.
    """

    vertices: Tensor
    rings: Tensor
    instances: Tensor

    @staticmethod
    def of(outlines: Sequence[Sequence[Sequence[float]]]) -> "Polygons":
        """From COCO's lists: per instance a list of rings, each ``[x0, y0, x1, y1, ...]``.

        Raises:
            ValueError: naming the ring and its instance, if a ring has half a corner, fewer than
                three, or one that is no finite number in fp32.
        """
        rings = [ring for outline in outlines for ring in outline]
        lengths = [len(ring) for ring in rings]
        numbers = _as_tensor([number for ring in rings for number in ring])
        are_pairs = all(n >= 6 and n % 2 == 0 for n in lengths)
        if not (are_pairs and numbers.dim() == 1 and numbers.isfinite().all()):
            _refuse_a_ring(outlines)
        return Polygons(
            numbers.view(-1, 2),
            _offsets(torch.tensor(lengths, dtype=torch.int64) // 2),
            _offsets(torch.tensor([len(outline) for outline in outlines], dtype=torch.int64)),
        )

    def to(self, device: torch.device | str) -> "Polygons":
        """The same outlines on another device."""
        return Polygons(*(part.to(device) for part in self))

    def select(self, index: Tensor) -> "Polygons":
        """The instances at ``index`` [K] int64, in that order; one may come several times."""
        counts = self.instances.diff()[index]  # [K]
        rings = _ranges(self.instances[index], counts)
        lengths = self.rings.diff()[rings]
        vertices = _ranges(self.rings[rings], lengths)
        return Polygons(self.vertices[vertices], _offsets(lengths), _offsets(counts))

    @staticmethod
    def cat(many: "Sequence[Polygons]") -> "Polygons":
        """The instances of several, one after the other."""
        if not many:
            return Polygons.of([])
        return Polygons(
            torch.cat([one.vertices for one in many]),
            _offsets(torch.cat([one.rings.diff() for one in many])),
            _offsets(torch.cat([one.instances.diff() for one in many])),
        )

    def boxes(self) -> Tensor:
        """The smallest box around each instance [G, 4], (x0, y0, x1, y1); zeros without a ring."""
        counts, lengths = self.instances.diff(), self.rings.diff()
        instance_of_ring = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        instance = instance_of_ring.repeat_interleave(lengths)[:, None].expand(-1, 2)  # [V, 2]
        low, high = (
            self.vertices.new_zeros(len(counts), 2).scatter_reduce(
                0, instance, self.vertices, reduce, include_self=False
            )
            for reduce in ("amin", "amax")
        )
        return torch.cat([low, high], 1)


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """Counts up from each start as often as its length says, one after the other."""
    before = lengths.cumsum(0) - lengths
    steps = (starts - before).repeat_interleave(lengths)
    return steps + torch.arange(len(steps), device=steps.device)


def _as_tensor(numbers: object) -> Tensor:
    """NaN for what is neither a number nor a list of numbers."""
    try:
        return torch.tensor(numbers, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return torch.tensor(float("nan"))


def _refuse_a_ring(outlines: Sequence[Sequence[Sequence[float]]]) -> None:
    for g, outline in enumerate(outlines):
        for r, ring in enumerate(outline):
            expected, got = None, str(len(ring))
            if len(ring) % 2:
                expected = "x and y in turn"
            elif len(ring) < 6:
                expected, got = "at least 3 corners", str(len(ring) // 2)
            for n in ring if not expected else []:
                number = _as_tensor(n)
                if number.dim() != 0 or not number.isfinite():
                    expected, got = "finite numbers", repr(n)
            if expected:
                raise ValueError(
                    f"Polygons: expected {expected} in ring {r} of instance {g}, got {got}"
                )
