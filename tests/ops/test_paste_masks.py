import pytest
import torch

from dynamask.ops import PackedMasks, RaggedMasks, paste_masks
from dynamask.reference.paste_masks import paste_masks as paste_plainly

from .on_cpu import on_cpu

reference = on_cpu(paste_plainly)

MODES = ["detectron2", "torchvision"]
SIZES = [1, 14, 28, 56, 112]


def masks_of(kind, count, size):
    """Noise; 0 and 1; quarters, so that many pixels meet the threshold exactly; smooth blobs."""
    if kind == "blobs":
        seeds = torch.rand(count, 1, 4, 4)
        return torch.nn.functional.interpolate(seeds, size=(size, size), mode="bilinear")[:, 0]
    noise = torch.rand(count, size, size)
    return {"noise": noise, "binary": noise.round(), "quarters": (noise * 4).round() / 4}[kind]


def boxes_of(kind, count, height, width):
    """Boxes that lie anywhere up to a fifth of the image outside of it, in every shape."""
    frame = torch.tensor([width, height])
    corners = (torch.rand(count, 2, 2) * 1.4 - 0.2) * frame
    low, high = corners.amin(1), corners.amax(1)
    if kind == "whole":
        low, high = low.round(), high.round() + 1
    if kind == "thin":
        high = low + torch.rand(count, 2) * torch.tensor([3.0, 500.0])
    if kind == "huge":
        low, high = low - 100 * torch.rand(count, 2), high + 500 * torch.rand(count, 2)
    if kind == "tiny":
        high = low + 2 * torch.rand(count, 2)
    return torch.cat([low, high], dim=1)


def test_by_hand():
    # two pixels to a sample: each pixel centre lies a quarter of a sample off the nearest centre
    mask = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    box = torch.tensor([[1.0, 0.0, 5.0, 4.0]])
    assert paste_masks(mask, box, (4, 6)).int().tolist()[0] == [
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 1, 1, 1, 0],
    ]


def test_outside_of_the_mask_is_zero():
    # with one sample for ten pixels, the value falls from 1 in the middle to 1/2 at the box
    pasted = paste_masks(torch.ones(1, 1, 1), torch.tensor([[10.0, 10, 20, 20]]), (30, 30), 0.75)
    assert pasted[0, 15].nonzero().flatten().tolist() == [13, 14, 15, 16]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["noise", "binary", "quarters", "blobs"])
@pytest.mark.parametrize("shape", ["any", "whole", "thin", "huge", "tiny"])
def test_every_pixel_is_the_references(mode, size, kind, shape):
    for image_size, threshold in [((97, 130), 0.5), ((5, 3), 0.5), ((60, 45), 0.25)]:
        masks, boxes = masks_of(kind, 4, size), boxes_of(shape, 4, *image_size)
        expected = reference(list(masks), boxes, image_size, threshold, mode=mode)
        assert torch.equal(paste_masks(masks, boxes, image_size, threshold, mode=mode), expected)


def test_equals_torchvision():
    heads = pytest.importorskip("torchvision.models.detection.roi_heads")
    masks, boxes = masks_of("quarters", 20, 28), boxes_of("any", 20, 60, 80).clamp(min=0)
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2])
    boxes = torch.minimum(boxes, torch.tensor([80, 60, 80, 60]))
    expected = on_cpu(heads.paste_masks_in_image)(masks[:, None], boxes, (60, 80))[:, 0] >= 0.5
    assert torch.equal(paste_masks(masks, boxes, (60, 80), mode="torchvision"), expected)


@pytest.mark.parametrize("mode", MODES)
def test_packed_is_the_same_pixels(mode):
    for shape in ("any", "thin", "tiny"):
        masks, boxes = masks_of("noise", 10, 14), boxes_of(shape, 10, 33, 50)
        dense = paste_masks(masks, boxes, (33, 50), mode=mode)
        packed = paste_masks(masks, boxes, (33, 50), out="packed", mode=mode)
        assert torch.equal(packed.dense(), dense)
        assert torch.equal(packed.area(), dense.sum((1, 2)))
        assert packed.image_size == (33, 50)


def test_packed_by_hand():
    packed = paste_masks(
        torch.ones(1, 28, 28), torch.tensor([[3.0, 2.0, 13.0, 4.0]]), (9, 20), out="packed"
    )
    # one pixel of margin on each side; rows of 12 pixels in two bytes
    assert packed.boxes.tolist() == [[2, 1, 14, 5]]
    assert packed.offsets.tolist() == [0, 8]
    assert packed.bits.tolist() == [0, 0, 0b11111110, 0b111, 0b11111110, 0b111, 0, 0]
    assert packed.crop(0).sum(1).tolist() == [0, 10, 10, 0]


@pytest.mark.parametrize("mode", MODES)
def test_sizes_may_differ(mode):
    masks = [masks_of("quarters", 1, size)[0] for size in (14, 112, 1, 0, 28, 56, 14)]
    boxes = boxes_of("any", len(masks), 70, 90)
    expected = reference(masks, boxes, (70, 90), mode=mode)
    assert torch.equal(paste_masks(masks, boxes, (70, 90), mode=mode), expected)
    ragged = RaggedMasks.of(masks)
    assert torch.equal(paste_masks(ragged, boxes, (70, 90), mode=mode), expected)
    longer = RaggedMasks(torch.cat([ragged.values, torch.ones(9)]), ragged.sizes)
    assert torch.equal(paste_masks(longer, boxes, (70, 90), mode=mode), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_are_compared_in_fp32(dtype):
    masks, boxes = masks_of("noise", 5, 28).to(dtype), boxes_of("any", 5, 50, 60)
    expected = paste_masks(masks.float(), boxes, (50, 60))
    assert torch.equal(paste_masks(masks, boxes, (50, 60)), expected)
    assert torch.equal(paste_masks(masks, boxes.double(), (50, 60)), expected)


def test_any_strides():
    masks, boxes = masks_of("noise", 3, 28), boxes_of("any", 3, 50, 60)
    turned = paste_masks(masks.transpose(1, 2), boxes.t().contiguous().t(), (50, 60))
    assert torch.equal(turned, paste_masks(masks.transpose(1, 2).contiguous(), boxes, (50, 60)))


@pytest.mark.parametrize("mode", MODES)
def test_empty(mode):
    assert paste_masks(torch.rand(0, 28, 28), torch.rand(0, 4), (5, 6), mode=mode).shape == (
        0,
        5,
        6,
    )
    assert paste_masks([], torch.rand(0, 4), (5, 6), mode=mode).shape == (0, 5, 6)
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    for image_size in [(0, 6), (5, 0), (0, 0)]:
        assert paste_masks(torch.ones(1, 2, 2), box, image_size, mode=mode).shape == (
            1,
            *image_size,
        )
    packed = paste_masks(torch.rand(0, 28, 28), torch.rand(0, 4), (5, 6), out="packed", mode=mode)
    assert packed.dense().shape == (0, 5, 6)
    assert packed.area().shape == (0,)


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "box",
    [
        (NAN, 2, 8, 8),
        (2, 2, 8, NAN),
        (-INF, 2, 8, 8),
        (2, 2, INF, INF),
        (8, 2, 2, 8),
        (2, 8, 8, 2),
        (50, 2, 60, 8),
        (2, -60, 8, -50),
        (1e9, 1e9, 2e9, 2e9),
        (-3e38, -3e38, -2e38, -2e38),
    ],
    ids=str,
)
def test_boxes_that_paste_nothing(mode, box):
    good = (2.0, 2.0, 8.0, 8.0)
    boxes = torch.tensor([good, box, good])
    pasted = paste_masks(torch.ones(3, 28, 28), boxes, (10, 12), mode=mode)
    packed = paste_masks(torch.ones(3, 28, 28), boxes, (10, 12), mode=mode, out="packed")
    alone = paste_masks(torch.ones(1, 28, 28), boxes[:1], (10, 12), mode=mode)[0]
    assert alone.sum() >= 36
    assert torch.equal(pasted, torch.stack([alone, torch.zeros_like(alone), alone]))
    assert torch.equal(packed.dense(), pasted)


def test_a_box_without_area():
    boxes = torch.tensor([[2.0, 2.0, 2.0, 8.0], [2.5, 2.0, 2.5, 8.0]])
    assert not paste_masks(torch.ones(2, 28, 28), boxes, (10, 12)).any()
    # torchvision counts pixels from first to last
    pasted = paste_masks(torch.ones(2, 28, 28), boxes, (10, 12), mode="torchvision")
    assert pasted.any(1).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [NAN, INF, -INF, 3e38])
def test_mask_values_that_are_no_probabilities(mode, value):
    masks, boxes = masks_of("noise", 6, 14), boxes_of("any", 6, 40, 50)
    masks[masks > 0.9] = value
    expected = reference(list(masks), boxes, (40, 50), mode=mode)
    assert torch.equal(paste_masks(masks, boxes, (40, 50), mode=mode), expected)


@pytest.mark.cpu_only
def test_threads_change_nothing():
    masks, boxes = masks_of("noise", 20, 28), boxes_of("any", 20, 50, 60)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(paste_masks(masks, boxes, (50, 60)))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def op_args(count=3):
    ragged = RaggedMasks.of(torch.rand(count, 14, 14))
    return (*ragged, boxes_of("any", count, 20, 30), 20, 30, 0.5, "detectron2")


@pytest.mark.parametrize("op", ["paste_masks", "paste_masks_packed"])
def test_registration(op):
    torch.library.opcheck(getattr(torch.ops.dynamask, op).default, op_args())


@pytest.mark.parametrize("out", ["dense", "packed"])
def test_compiles_without_a_graph_break(out):
    def paste(masks, boxes):
        pasted = paste_masks(masks, boxes, (20, 30), out=out)
        return pasted if out == "dense" else pasted.bits

    compiled = torch.compile(paste, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (2, 5):
        masks, boxes = torch.rand(count, 14, 14), boxes_of("any", count, 20, 30)
        assert torch.equal(compiled(masks, boxes), paste(masks, boxes))


@pytest.mark.cpu_only
def test_kernels_refuse_sizes_that_do_not_fit():
    values, sizes, *rest = op_args()
    for bad in (sizes + 1, -sizes):
        with pytest.raises(RuntimeError, match="expected sizes of at most 588 values together"):
            torch.ops.dynamask.paste_masks(values, bad, *rest)


M, B = torch.rand(2, 14, 14), torch.rand(2, 4)


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((M[0], B, (5, 5)), {}, ValueError, r"masks \[N, S, S\], got \[14, 14\]"),
        ((M.int(), B, (5, 5)), {}, TypeError, "masks of a floating dtype, got torch.int32"),
        ((M, B[:, :3], (5, 5)), {}, ValueError, r"boxes \[N, 4\], got \[2, 3\]"),
        ((M, B.int(), (5, 5)), {}, TypeError, "boxes of a floating dtype, got torch.int32"),
        ((M, B[:1], (5, 5)), {}, ValueError, "boxes 2, got 1"),
        ((M, B, (5,)), {}, ValueError, r"image_size \(height, width\), got \(5,\)"),
        ((M, B, (5, -1)), {}, ValueError, r"image_size \(height, width\), got \(5, -1\)"),
        ((M, B, (5, 5), 0.0), {}, ValueError, "threshold above 0, got 0.0"),
        ((M, B, (5, 5), NAN), {}, ValueError, "threshold above 0, got nan"),
        (
            (M, B, (5, 5)),
            {"mode": "d2"},
            ValueError,
            "mode 'detectron2' or 'torchvision', got 'd2'",
        ),
        ((M, B, (5, 5)), {"out": "rle"}, ValueError, "out 'dense' or 'packed', got 'rle'"),
    ],
)
def test_says_what_is_wrong(args, options, error, message):
    with pytest.raises(error, match=f"paste_masks: expected {message}"):
        paste_masks(*args, **options)


def test_packed_masks_are_a_tuple():
    packed = paste_masks(M, B, (5, 5), out="packed")
    assert isinstance(packed, PackedMasks)
    assert len(packed) == 4
