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
        """From COCO's lists: per instance a list of rings, each ``[x0, y0, x1, y1, ...]``."""
        flat = [ring for outline in outlines for ring in outline]
        lengths = torch.tensor([0] + [len(ring) // 2 for ring in flat])
        counts = torch.tensor([0] + [len(outline) for outline in outlines])
        numbers = [number for ring in flat for number in ring]
        vertices = torch.tensor(numbers, dtype=torch.float32).view(-1, 2)
        return Polygons(vertices, lengths.cumsum(0), counts.cumsum(0))

    def select(self, index: Tensor) -> "Polygons":
        """The instances at ``index`` [K] int64, in that order."""
        rings = self.rings.tolist()
        starts = self.instances.tolist()
        vertices, lengths, counts = [self.vertices[:0]], [0], [0]
        for g in index.tolist():
            for r in range(starts[g], starts[g + 1]):
                vertices.append(self.vertices[rings[r] : rings[r + 1]])
                lengths.append(rings[r + 1] - rings[r])
            counts.append(starts[g + 1] - starts[g])
        return Polygons(
            torch.cat(vertices), torch.tensor(lengths).cumsum(0), torch.tensor(counts).cumsum(0)
        )

    @staticmethod
    def cat(many: "Sequence[Polygons]") -> "Polygons":
        """The instances of several, one after the other."""
        if len(many) == 0:
            return Polygons.of([])
        vertices = torch.cat([p.vertices for p in many])
        rings, instances = [many[0].rings[:1]], [many[0].instances[:1]]
        corners = outlines = 0  # so far
        for p in many:
            rings.append(p.rings[1:] + corners)
            instances.append(p.instances[1:] + outlines)
            corners += p.vertices.shape[0]
            outlines += p.rings.shape[0] - 1
        return Polygons(vertices, torch.cat(rings), torch.cat(instances))
