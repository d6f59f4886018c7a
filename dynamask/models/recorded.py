"""The inference form of a detector as one CUDA graph per shape of batch."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynamask.models.box_selection import BoxSelection
from dynamask.models.detector import Detector, by_image
from dynamask.models.images import ImageBatch
from dynamask.ops import RaggedMasks
from dynamask.prediction import Prediction

WARM_UPS = 3  # what is compiled or chosen at a first call must not be recorded


class Recording(NamedTuple):
    """A graph, the memory that it reads its batch from, and what it leaves behind."""

    graph: torch.cuda.CUDAGraph
    batch: ImageBatch
    found: BoxSelection
    masks: RaggedMasks


class RecordedDetector(nn.Module):
    """A detector on a GPU that is recorded once per padded size of batch, and then replayed.

    One image takes several hundred kernels, each started by Python; a recording starts all of them
    at once. The first batch of a size takes as long as several. Sizes of images may differ within a
    padded size. Masks are computed for all the boxes that could have come out, at the smallest size
    where none did.

    Args:
        detector: An inference form on a GPU: see :meth:`Detector.fused`. Its weights may change in
            place, but not move.
        kept: How many sizes stay recorded; the one not used for longest is forgotten first. They
            share their working memory.

    Raises:
        ValueError: if the detector is on another device.
    """

    def __init__(self, detector: Detector, kept: int = 8) -> None:
        super().__init__()
        device = next(detector.parameters()).device
        if device.type != "cuda":
            raise ValueError(f"RecordedDetector: expected a detector on cuda, got {device}")
        self.detector = detector.eval()
        self.kept = kept
        self.num_classes = detector.num_classes
        self._recordings: OrderedDict[torch.Size, Recording] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[Prediction]:
        """What is in each image: see :meth:`Detector.forward`."""
        batch = self.detector.batch(images)
        with torch.cuda.device(batch.pixels.device):
            recording = self._recording(batch)
            recording.batch.pixels.copy_(batch.pixels)
            recording.batch.extents.copy_(batch.extents)
            recording.graph.replay()
        # copies: the next replay, of whatever size, writes where these stand
        masks = recording.masks.select(recording.found.valid.flatten())
        return by_image(recording.found, masks, batch.sizes)

    def _recording(self, batch: ImageBatch) -> Recording:
        size = batch.pixels.shape
        if size not in self._recordings:
            if len(self._recordings) >= self.kept:
                self._recordings.popitem(last=False)
            self._recordings[size] = self._record(batch)
        self._recordings.move_to_end(size)
        return self._recordings[size]

    def _record(self, batch: ImageBatch) -> Recording:
        batch = batch._replace(pixels=batch.pixels.clone(), extents=batch.extents.clone())
        main, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.detector.every_slot(batch)
        main.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            found, masks = self.detector.every_slot(batch)
        return Recording(graph, batch, found, masks)
