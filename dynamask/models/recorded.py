"""The inference form of a detector as one CUDA graph per shape of batch."""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple

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
    where none did. Threads and streams may share it; they take turns. Autocast changes nothing: the
    dtype is the one that was given to :meth:`Detector.fused`.

    Args:
        detector: An inference form on a GPU: see :meth:`Detector.fused`. Its weights may change in
            place, but not move.
        kept: How many sizes stay recorded; the one not used for longest is forgotten first. They
            share their working memory, which is as much as the largest needs, and each has a batch
            and the room for its masks to itself.

    Raises:
        ValueError: if the detector is on another device, or ``kept`` is not positive.
    """

    def __init__(self, detector: Detector, kept: int = 8) -> None:
        super().__init__()
        device = next(detector.parameters()).device
        if device.type != "cuda":
            raise ValueError(f"RecordedDetector: expected a detector on cuda, got {device}")
        if kept < 1:
            raise ValueError(f"RecordedDetector: expected kept >= 1, got {kept}")
        self.detector = detector.eval()
        self.kept = kept
        self.num_classes = detector.num_classes
        self._device = device
        self._mask_sizes = torch.zeros(0, dtype=torch.int64)
        self._recordings: OrderedDict[torch.Size, Recording] = OrderedDict()
        self._lock = Lock()
        self._read = torch.cuda.Event()  # all that the latest replay left has been read
        # The same for all recordings: memory moves on between captures of one stream alone, and
        # cuBLAS never gives back the workspace of a stream that it has seen. Two streams, as the
        # workspace of a capture must come from the pool, where nobody else gets hold of it.
        self._pool = torch.cuda.graph_pool_handle()
        self._warm_up, self._capture = torch.cuda.Stream(device), torch.cuda.Stream(device)

    @property
    def last_counts(self) -> list[int]:
        """Objects of the latest batch per mask size of the branch; to ask for it waits."""
        sizes = self._mask_sizes.tolist()
        branch: Any = self.detector.mask_branch
        return [sizes.count(size) for size in branch.sizes]

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[Prediction]:
        """What is in each image: see :meth:`Detector.forward`."""
        batch = self.detector.batch(images)
        with self._lock, torch.cuda.device(self._device):
            self._read.wait()
            recording = self._recording(batch)
            recording.batch.pixels.copy_(batch.pixels)
            recording.batch.extents.copy_(batch.extents)
            recording.graph.replay()
            # copies: the next replay, of whatever size, writes where these stand
            masks = recording.masks.select(recording.found.valid.flatten().nonzero().flatten())
            predictions = by_image(recording.found, masks, batch.sizes)
            self._mask_sizes = masks.sizes
            self._read.record()
        return predictions

    def _recording(self, batch: ImageBatch) -> Recording:
        size = batch.pixels.shape
        if size not in self._recordings:
            if len(self._recordings) >= self.kept:
                self._recordings.popitem(last=False)
            self._recordings[size] = self._record(batch)
        self._recordings.move_to_end(size)
        return self._recordings[size]

    def _record(self, batch: ImageBatch) -> Recording:
        main = torch.cuda.current_stream()
        # tensors of inference mode could not be filled outside of it, and what autocast remembers
        # of a capture would be found by calls that are none
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cuda", enabled=False):
            batch = batch._replace(pixels=batch.pixels.clone(), extents=batch.extents.clone())
            self._warm_up.wait_stream(main)
            with torch.cuda.stream(self._warm_up):
                for _ in range(WARM_UPS):
                    self.detector.every_slot(batch)
            main.wait_stream(self._warm_up)
            graph = torch.cuda.CUDAGraph()
            try:
                # other threads may go on with what they do: not "global"; and torch leaves the
                # stream of a capture only if that succeeds
                with (
                    torch.cuda.stream(main),
                    torch.cuda.graph(graph, self._pool, self._capture, "thread_local"),
                ):
                    found, masks = self.detector.every_slot(batch)
            except Exception:
                # for the allocator a capture that failed may go on for ever
                self._pool = torch.cuda.graph_pool_handle()
                raise
        return Recording(graph, batch, found, masks)
