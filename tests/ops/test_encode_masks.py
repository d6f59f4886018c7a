import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from dynamask import rle
from dynamask.ops import RaggedMasks, encode_masks
from dynamask.reference.encode_masks import encode_masks as encode_plainly
from dynamask.reference.paste_masks import paste_masks as paste_plainly

from .on_cpu import on_cpu

reference, reference_paste = on_cpu(encode_plainly), on_cpu(paste_plainly)

MODES = ["detectron2", "torchvision"]
SIZES = [1, 14, 28, 56, 112]
NAN = float("nan")


def paste_and_encode(masks, boxes, image_size, threshold=0.5, *, mode="detectron2"):
    dense = reference_paste(list(masks), boxes, image_size, threshold, mode=mode)
    return [coco.encode(np.asfortranarray(frame)) for frame in dense.cpu().numpy().view(np.uint8)]


def random_boxes(count, height, width):
    """Inside, over the edges, outside, thin, tiny, huge, without area, not finite."""
    frame = torch.tensor([width, height])
    low = (torch.rand(count, 2) * 1.4 - 0.3) * frame
    sides = torch.rand(count, 2) ** 2 * 1.2 * frame
    boxes = torch.cat([low, low + sides], dim=1)
    whole = torch.rand(count) < 0.3
    boxes[whole] = boxes[whole].round()
    for row, change in enumerate(torch.randint(0, 12, (count,)).tolist()):
        x0, y0, _, _ = boxes[row].tolist()
        special = {
            0: (x0, y0, x0 + 0.7, y0 + height),
            1: (x0, y0, x0 + 1.3, y0 + 1.6),
            2: (x0 - 3000, y0 - 20, x0 + 5000, y0 + 20),
            3: (x0, y0, x0, y0 + 10),
            4: (NAN, y0, x0 + 10, y0 + 10),
            5: (width + 5.0, y0, width + 9.0, y0 + 20),
        }.get(change)
        if special is not None:
            boxes[row] = torch.tensor(special)
    return boxes


def random_masks(count, size):
    masks = torch.rand(count, size, size)
    smooth = torch.nn.functional.interpolate(
        torch.rand(count, 1, 5, 5), size=(size, size), mode="bicubic"
    )[:, 0]
    kinds = torch.stack([masks, masks.round(), (masks * 4).round() / 4, smooth, smooth.round()])
    return kinds[torch.arange(count) % len(kinds), torch.arange(count)]


def test_by_hand():
    # column 0 has no foreground; then three columns of two pixels each, from the second row on
    mask, box = torch.ones(1, 4, 4), torch.tensor([[1.0, 1.0, 4.0, 3.0]])
    (encoded,) = encode_masks(mask, box, (4, 4))
    assert encoded["size"] == [4, 4]
    runs = [5, 2, 2, 2, 2, 2, 1]
    assert rle.validate({"size": [4, 4], "counts": runs}) == encoded


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_bytes_are_those_of_paste_and_pycocotools(mode, size):
    for image_size in [(80, 120), (33, 200), (64, 64), (3, 5), (1, 1)]:
        for threshold in (0.5, 0.3):
            masks, boxes = random_masks(20, size), random_boxes(20, *image_size)
            expected = paste_and_encode(masks, boxes, image_size, threshold, mode=mode)
            assert encode_masks(masks, boxes, image_size, threshold, mode=mode) == expected


@pytest.mark.parametrize("mode", MODES)
def test_sizes_may_differ(mode):
    masks = [random_masks(5, size)[i] for i in range(5) for size in SIZES]
    masks.insert(3, torch.rand(0, 0))
    boxes = random_boxes(len(masks), 90, 70)
    expected = paste_and_encode(masks, boxes, (90, 70), mode=mode)
    assert encode_masks(masks, boxes, (90, 70), mode=mode) == expected
    ragged = RaggedMasks.of(masks)
    assert encode_masks(ragged, boxes, (90, 70), mode=mode) == expected
    longer = RaggedMasks(torch.cat([ragged.values, torch.ones(9)]), ragged.sizes)
    assert encode_masks(longer, boxes, (90, 70), mode=mode) == expected


@pytest.mark.parametrize("mode", MODES)
def test_matches_the_reference(mode):
    masks, boxes = random_masks(10, 28), random_boxes(10, 40, 30)
    expected = reference(list(masks), boxes, (40, 30), mode=mode)
    assert encode_masks(masks, boxes, (40, 30), mode=mode) == expected


@pytest.mark.parametrize("mode", MODES)
def test_a_large_image(mode):
    masks, boxes = random_masks(10, 28), random_boxes(10, 800, 1333)
    expected = paste_and_encode(masks, boxes, (800, 1333), mode=mode)
    assert encode_masks(masks, boxes, (800, 1333), mode=mode) == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0.5, 0.5 - 2**-25, 0.5 + 2**-24, 1.0, 0.0])
def test_a_plain_mask_at_the_threshold(mode, value):
    masks = torch.full((8, 14, 14), value)
    boxes = random_boxes(8, 50, 60)
    expected = paste_and_encode(masks, boxes, (50, 60), mode=mode)
    assert encode_masks(masks, boxes, (50, 60), mode=mode) == expected


def test_columns_join_across_the_edge_of_the_image():
    # foreground to the bottom of one column and from the top of the next is one run
    boxes = torch.tensor([[0.0, -20.0, 6.0, 30.0], [2.0, -20.0, 4.0, 30.0]])
    encoded = encode_masks(torch.ones(2, 28, 28), boxes, (10, 6))
    assert [
        rle.validate({"size": [10, 6], "counts": c}) for c in ([0, 60], [20, 20, 20])
    ] == encoded


def test_an_image_of_2_gigapixels_takes_no_memory():
    (encoded,) = encode_masks(
        torch.ones(1, 28, 28), torch.tensor([[5.0, 5.0, 8.0, 7.0]]), (2**16, 2**15 - 1)
    )
    assert rle.area(encoded) == 6
    assert rle.to_bbox(encoded) == [5, 5, 3, 2]


def test_empty():
    assert encode_masks(torch.rand(0, 28, 28), torch.rand(0, 4), (5, 6)) == []
    assert encode_masks([], torch.rand(0, 4), (5, 6)) == []
    (nothing,) = encode_masks(torch.ones(1, 2, 2), torch.ones(1, 4), (0, 6))
    assert nothing == coco.encode(np.zeros((0, 6), np.uint8, order="F"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_are_compared_in_fp32(dtype):
    masks, boxes = random_masks(5, 28).to(dtype), random_boxes(5, 50, 60)
    assert encode_masks(masks, boxes, (50, 60)) == encode_masks(masks.float(), boxes, (50, 60))


def test_any_strides():
    masks, boxes = random_masks(4, 28)[:, ::2, 1::2], random_boxes(4, 50, 60)
    expected = encode_masks(masks.contiguous(), boxes, (50, 60))
    assert encode_masks(masks, boxes, (50, 60)) == expected


@pytest.mark.cpu_only
def test_threads_change_nothing():
    masks, boxes = random_masks(20, 28), random_boxes(20, 50, 60)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(encode_masks(masks, boxes, (50, 60)))
    torch.set_num_threads(threads)
    assert results[0] == results[1]


def op_args(count=3):
    ragged = RaggedMasks.of(torch.rand(count, 14, 14))
    return (*ragged, torch.rand(count, 4).cumsum(1) * 10, 20, 30, 0.5, "detectron2")


def test_registration():
    torch.library.opcheck(torch.ops.dynamask.encode_masks.default, op_args())


def test_compiles_without_a_graph_break():
    op = torch.ops.dynamask.encode_masks
    compiled = torch.compile(op, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (2, 5):
        args = op_args(count)
        assert all(torch.equal(a, b) for a, b in zip(compiled(*args), op(*args)))


M, B = torch.rand(2, 14, 14), torch.rand(2, 4)


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((M[0], B, (5, 5)), {}, ValueError, r"masks \[N, S, S\], got \[14, 14\]"),
        ((M, B[:1], (5, 5)), {}, ValueError, "boxes 2, got 1"),
        ((M, B.int(), (5, 5)), {}, TypeError, "boxes of a floating dtype, got torch.int32"),
        ((M, B, (5, 5), -1.0), {}, ValueError, "threshold above 0, got -1.0"),
        ((M, B, (5, 5)), {"mode": "coco"}, ValueError, "mode 'detectron2' or 'torchvision'"),
        ((M, B, (2**16, 2**15)), {}, ValueError, r"an image below 2\*\*31 pixels, got \(65536, 32"),
    ],
)
def test_says_what_is_wrong(args, options, error, message):
    with pytest.raises(error, match=f"encode_masks: expected {message}"):
        encode_masks(*args, **options)
