"""mask_targets of bitmasks and of run-length masks; outlines are in test_mask_targets.py."""

import pytest
import torch

from dynamask import rle
from dynamask.ops import mask_targets
from dynamask.reference.mask_targets import coverage
from dynamask.reference.mask_targets import mask_targets as reference
from dynamask.testing import assert_op_is_registered

from .on_cpu import on_cpu

SIZES = (14, 28, 56, 112)


def blobs(*shape):
    noise = torch.rand(shape)[:, None]
    return torch.nn.functional.avg_pool2d(noise, 9, 1, 4, count_include_pad=False)[:, 0] > 0.5


def rectangles(n, height, width):
    masks = torch.zeros(n, height, width, dtype=torch.bool)
    for mask in masks:
        y, x = torch.rand(2).tolist()
        mask[int(y * height) :, int(x * width) :][: height // 2, : width // 2] = True
    return masks


def boxes_around(rois, height, width, extent):
    middle = torch.rand(rois, 2) * torch.tensor([width, height]) * 1.4 - 0.2
    half = torch.rand(rois, 2) * extent / 2
    return torch.cat([middle - half, middle + half], 1)


def by_roi_align(masks, boxes, index, size):
    """detectron2's BitMasks.crop_and_resize."""
    rois = torch.cat([index[:, None].float(), boxes.float()], 1)
    roi_align = pytest.importorskip("torchvision").ops.roi_align
    pooled = on_cpu(roi_align)(masks.float()[:, None], rois, (size, size), 1.0, -1, True)
    return (pooled[:, 0] >= 0.5).to(torch.uint8)


def as_rle(masks):
    return [rle.encode(mask) for mask in map(torch.Tensor.cpu, masks)]


def test_by_hand():
    mask = torch.tensor([[[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]]).bool()
    box = torch.tensor([[1.0, 1.0, 5.0, 5.0]])
    for masks in (mask, mask.byte() * 255, as_rle(mask)):
        assert mask_targets(masks, box, sizes=[4])[0].tolist() == [
            [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
        ]


@pytest.mark.parametrize("size", [1, 3, 14, 28, 56, 63, 112])
@pytest.mark.parametrize("extent", [5.0, 60.0, 400.0])
@pytest.mark.parametrize("kind", [blobs, rectangles, lambda *shape: torch.rand(shape) > 0.5])
def test_equals_roi_align(size, extent, kind):
    for height, width in ((37, 90), (90, 37), (1, 5), (70, 130)):
        masks = kind(2, height, width)
        boxes = boxes_around(6, height, width, extent)
        boxes[3:] = (boxes[3:] * 2).round() / 2  # halves bring ties at 0.5
        index = torch.randint(0, 2, (6,))
        expected = by_roi_align(masks, boxes, index, size)
        assert torch.equal(mask_targets(masks, boxes, index, [size])[0], expected)
        assert torch.equal(mask_targets(as_rle(masks), boxes, index, [size])[0], expected)


def test_matches_reference():
    masks, boxes, index = blobs(2, 20, 30), boxes_around(3, 20, 30, 30), torch.tensor([0, 1, 1])
    for got, expected in zip(
        mask_targets(masks, boxes, index, [7, 14]), reference(masks, boxes.double(), index, [7, 14])
    ):
        for r, b, y, x in [(r, boxes[r].double(), y, x) for r, y, x in (got != expected).nonzero()]:
            tie = coverage(masks[index[r]], b, got.shape[1])[y, x]
            assert abs(tie - 0.5) < 1e-5


def test_all_sizes_at_once_equal_each_alone():
    masks, boxes = blobs(5, 60, 80), boxes_around(5, 60, 80, 70)
    for kind in (masks, as_rle(masks)):
        together = mask_targets(kind, boxes)
        assert [target.shape for target in together] == [(5, s, s) for s in SIZES]
        for size, target in zip(SIZES, together):
            assert torch.equal(mask_targets(kind, boxes, sizes=[size])[0], target)


def test_run_length_masks_of_different_images():
    shapes = [(30, 50), (64, 64), (1, 7), (90, 20)]
    masks = [blobs(1, *shape)[0] for shape in shapes]
    boxes = boxes_around(4, 40, 40, 40)
    together = mask_targets(as_rle(masks), boxes, sizes=[14])[0]
    for mask, box, target in zip(masks, boxes, together):
        assert torch.equal(mask_targets(mask[None], box[None], sizes=[14])[0][0], target)


@pytest.mark.parametrize(
    "box",
    [
        [float("nan"), 0.0, 20.0, 20.0],
        [0.0, 0.0, float("inf"), 20.0],
        [10.0, 10.0, 10.0, 20.0],
        [20.0, 10.0, 10.0, 20.0],
        [1e9, 1e9, 1e9 + 64, 1e9 + 64],
        [-1e9, -1e9, 1e9, 1e9],
        [-3e38, -3e38, 3e38, 3e38],
        [0.0, 0.0, 1e5, 1e5],
    ],
    ids=str,
)
def test_odd_boxes_give_zeros_and_harm_no_other(box):
    masks = torch.ones(1, 40, 50, dtype=torch.bool)
    fine = torch.tensor([[5.0, 5.0, 30.0, 30.0]])
    boxes = torch.cat([fine, torch.tensor([box]), fine])
    for kind in (masks, as_rle(masks)):
        for target in mask_targets(kind, boxes, torch.zeros(3, dtype=torch.int64)):
            big = box[2] == 1e5
            assert big or not target[1].any()
            assert target[[0, 2]].all()


def test_empty():
    boxes, none = torch.rand(3, 4), torch.zeros(0, dtype=torch.int64)
    assert mask_targets(torch.zeros(0, 9, 9).bool(), boxes[:0], none)[0].shape == (0, 14, 14)
    assert mask_targets([], boxes[:0], none)[3].shape == (0, 112, 112)
    for shape in ((3, 0, 9), (3, 9, 0), (3, 0, 0)):
        masks = torch.zeros(shape).bool()
        assert not mask_targets(masks, boxes)[0].any()
        assert not mask_targets(as_rle(masks), boxes)[0].any()


def test_any_strides():
    masks, boxes = blobs(4, 60, 60), boxes_around(4, 30, 30, 30)
    views = (
        masks[:, ::2, ::2],
        masks.transpose(1, 2),
        masks[:, 5:40, 7:30],
        masks[:1].expand(4, -1, -1),
    )
    for view in views:
        expected = mask_targets(view.clone(memory_format=torch.contiguous_format), boxes)
        for got, want in zip(mask_targets(view, boxes), expected):
            assert torch.equal(got, want)


@pytest.mark.cpu_only
def test_threads_give_the_same_bits():
    masks, boxes = blobs(30, 60, 60), boxes_around(30, 60, 60, 40)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = mask_targets(masks, boxes)
        torch.set_num_threads(2)
        for got, expected in zip(mask_targets(masks, boxes), alone):
            assert torch.equal(got, expected)
    finally:
        torch.set_num_threads(threads)


def test_registration():
    masks, boxes = blobs(2, 20, 20), boxes_around(2, 20, 20, 20)
    index, ops = torch.tensor([1, 0]), torch.ops.dynamask
    assert_op_is_registered(ops.mask_targets.default, (masks, boxes, index, [14, 28]))
    counts = torch.frombuffer(bytearray(as_rle(masks[:1])[0]["counts"]), dtype=torch.uint8)
    starts, sizes = (torch.tensor(x, device="cpu") for x in ([0, len(counts)], [[20, 20]]))
    args = (counts, starts, sizes, boxes.cpu(), index.cpu() * 0, [14, 28])
    assert_op_is_registered(ops.mask_targets_rle.default, args)


def test_compiles_without_a_graph_break():
    compiled = torch.compile(mask_targets, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (3, 5):
        masks, boxes = blobs(n, 20, 20), boxes_around(n, 20, 20, 20)
        for got, expected in zip(compiled(masks, boxes), mask_targets(masks, boxes)):
            assert torch.equal(got, expected)


M, B, N = torch.zeros(2, 5, 5).bool(), torch.rand(2, 4), torch.tensor([0, 1])
BAD_RLE = [{"size": [5, 5], "counts": b"11"}, {"size": [5, 6], "counts": b"1"}]


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((M[0], B, N), ValueError, r"expected masks \[G, H, W\], got \[5, 5\]"),
        ((M.float(), B, N), TypeError, "expected masks of bool or uint8, got torch.float32"),
        ((M, B, N + 1), ValueError, r"expected index in \[0, 2\), got 2 in row 1"),
        ((M[:1], B), ValueError, "expected boxes, one per instance, 1, got 2"),
        ((BAD_RLE, B, N), ValueError, r"masks\[0\]: rle: expected runs of 25 pixels together"),
        (([3, 4], B, N), ValueError, r"masks\[0\]: rle: expected a dict with size and counts"),
    ],
)
def test_says_what_is_wrong(args, error, message):
    with pytest.raises(error, match=f"mask_targets: {message}"):
        mask_targets(*args)
