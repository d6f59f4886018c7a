import pytest
import torch

from dynamask.ops import PackedMasks, RaggedMasks
from dynamask.reference.paste_masks import paste_masks as reference

from .conftest import SANITIZERS, SanitizerError

HEIGHT, WIDTH = 37, 45
MODES = ("detectron2", "torchvision")
FEW = {"kPasteThreads = 128": "kPasteThreads = 8", "kBlocksPerMask = 32": "kBlocksPerMask = 2"}


def scene():
    """Masks of several sizes, boxes inside, across every border, everywhere, and unusable."""
    boxes = torch.tensor(
        [
            [3.2, 4.1, 20.7, 30.9],
            [-6.0, -5.5, 12.3, 9.1],
            [30.4, 20.2, 60.0, 50.0],
            [-4.0, -3.0, 55.0, 44.0],
            [0.0, 0.0, WIDTH, HEIGHT],
            [10.0, -20.0, 14.0, 70.0],
            [5.0, 5.0, 2.0, 9.0],
            [float("nan"), 0.0, 9.0, 9.0],
            [8.0, 8.0, 8.0, 8.0],
            [20.0, 25.0, 31.5, 33.0],
        ]
    )
    sizes = torch.tensor([14, 7, 14, 28, 5, 14, 7, 7, 3, 14])
    values = [(torch.rand(s, s) * 2).round() / 2 for s in sizes.tolist()]  # ties at the threshold
    values[4] = torch.ones(5, 5)
    return RaggedMasks(torch.cat([v.flatten() for v in values]), sizes), boxes


def arguments(masks, boxes, mode):
    return masks.values, boxes, masks.sizes, HEIGHT, WIDTH, MODES.index(mode)


def unpack(data, count):
    """Frames, and packed masks as frames."""
    pixels = count * HEIGHT * WIDTH
    frames = torch.frombuffer(bytearray(data[:pixels]), dtype=torch.bool)
    numbers = torch.frombuffer(bytearray(data[pixels : pixels + 40 * count]), dtype=torch.int64)
    boxes, ends = numbers[: 4 * count].view(count, 4), numbers[4 * count :]
    bits = torch.frombuffer(bytearray(data[pixels + 40 * count :]), dtype=torch.uint8)
    offsets = torch.cat([ends.new_zeros(1), ends])
    packed = PackedMasks(bits, offsets, boxes, (HEIGHT, WIDTH))
    return frames.view(count, HEIGHT, WIDTH), packed.dense()


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_matches_reference(hostcuda, sanitizer):
    driver = hostcuda("paste_masks", sanitizer, FEW)
    masks, boxes = scene()
    for mode in MODES:
        expected = reference(masks.split(), boxes, (HEIGHT, WIDTH), mode=mode)
        dense, packed = unpack(driver.run(*arguments(masks, boxes, mode)), len(boxes))
        assert torch.equal(dense, expected)
        assert torch.equal(packed, expected)


def test_a_planted_fault_is_caught(hostcuda):
    fault = {"y <= size && 1 <= x && x <= size": "y <= size && 1 <= x && x <= size + 1"}
    driver = hostcuda("paste_masks", "memory", {**FEW, **fault})
    masks, boxes = scene()
    with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        driver.run(*arguments(masks, boxes, "detectron2"))
