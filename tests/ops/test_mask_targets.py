import numpy as np
import pytest
import torch

from dynamask.ops import Polygons, mask_targets
from dynamask.reference.mask_targets import mask_targets as reference
from dynamask.testing import assert_op_is_registered

coco = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__")

SIZES = (14, 28, 56, 112)


def star(center, radius, corners):
    """A ragged ring around a point."""
    angle = torch.linspace(0, 2 * torch.pi, corners + 1)[:-1]
    length = radius * (0.3 + torch.rand(corners))
    xy = torch.stack([center[0] + length * angle.cos(), center[1] + length * angle.sin()], 1)
    return xy.flatten().tolist()


def scene(instances=6, rois=10, rings=2, corners=17, side=200):
    """Outlines, boxes that cut them at random, and which outline each box is matched to."""
    centers = torch.rand(instances, 2) * side
    outlines = [
        [star(center + torch.randn(2) * 20, 50, corners) for _ in range(rings)]
        for center in centers
    ]
    index = torch.randint(0, instances, (rois,))
    low = centers[index] - 10 - 60 * torch.rand(rois, 2)
    boxes = torch.cat([low, low + 5 + 150 * torch.rand(rois, 2)], 1)
    return Polygons.of(outlines), boxes, index


def pycocotools_targets(masks, boxes, index, size):
    """The crop of detectron2 and mmdet, in fp64 on what was given in fp32."""
    vertices, rings, instances = (x.cpu().numpy() for x in masks)
    out = []
    for i, (x0, y0, x1, y1) in zip(index.tolist(), boxes.double().tolist()):
        scale = [size / max(x1 - x0, 1), size / max(y1 - y0, 1)]
        polygons = [
            ((vertices[rings[r] : rings[r + 1]].astype(np.float64) - [x0, y0]) * scale).ravel()
            for r in range(instances[i], instances[i + 1])
        ]
        rle = coco.merge(coco.frPyObjects([p.tolist() for p in polygons], size, size))
        out.append(torch.from_numpy(coco.decode(rle)))
    return torch.stack(out).to(boxes.device)


def square(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def test_by_hand():
    masks = Polygons.of([[square(2, 1, 4, 3)]])
    (target,) = mask_targets(masks, torch.tensor([[0.0, 0.0, 4.0, 4.0]]), sizes=[4])
    assert target.tolist() == [[[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]]
    (cut,) = mask_targets(masks, torch.tensor([[3.0, 2.0, 5.0, 4.0]]), sizes=[4])
    assert cut.tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]


def test_rings_of_an_instance_are_united():
    masks = Polygons.of([[square(0, 0, 2, 2), square(1, 1, 3, 3), square(0, 3, 1, 4)]])
    (target,) = mask_targets(masks, torch.tensor([[0.0, 0.0, 4.0, 4.0]]), sizes=[4])
    assert target[0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("size", [1, 2, 14, 28, 56, 63, 64, 65, 112, 200])
@pytest.mark.parametrize("corners", [3, 4, 17, 200])
def test_equals_pycocotools(size, corners):
    masks, boxes, index = scene(corners=corners)
    (target,) = mask_targets(masks, boxes, index, [size])
    assert target.dtype == torch.uint8
    assert torch.equal(target, pycocotools_targets(masks, boxes, index, size))


@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0, 1e3, 6e3])
@pytest.mark.parametrize("grid", [None, 1.0, 0.2])
def test_equals_pycocotools_near_and_far(spread, grid):
    # corners on the grid bring ties in every rounding
    for corners in (3, 5, 8):
        rings = [(torch.randn(2 * corners) * spread).float() for _ in range(30)]
        if grid:
            rings = [(ring / grid).round() * grid for ring in rings]
        masks = Polygons.of([[ring.tolist()] for ring in rings])
        boxes = torch.tensor([[-10.0, -10.0, 18.0, 18.0]]).repeat(30, 1)
        for target in mask_targets(masks, boxes, sizes=[28, 19]):
            index = torch.arange(30)
            expected = pycocotools_targets(masks, boxes, index, target.shape[1])
            assert torch.equal(target, expected)


def test_matches_reference():
    masks, boxes, index = scene(instances=3, rois=4, corners=7)
    for got, expected in zip(mask_targets(masks, boxes, index), reference(masks, boxes, index)):
        assert torch.equal(got, expected)


def test_all_sizes_at_once_equal_each_alone():
    masks, boxes, index = scene()
    together = mask_targets(masks, boxes, index)
    assert [target.shape for target in together] == [(10, s, s) for s in SIZES]
    for size, target in zip(SIZES, together):
        assert torch.equal(mask_targets(masks, boxes, index, [size])[0], target)


def test_thin_and_inverted_boxes_count_as_one_pixel():
    masks = Polygons.of([[square(0, 0, 10, 10)]] * 3)
    boxes = torch.tensor([[4.0, 4.0, 4.0, 8.0], [4.0, 4.0, 5.0, 8.0], [4.0, 4.0, 2.0, 8.0]])
    thin, one, inverted = mask_targets(masks, boxes, sizes=[14])[0]
    assert torch.equal(thin, one)
    assert torch.equal(inverted, one)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_gives_zeros(bad):
    masks, boxes, index = scene(instances=2, rois=4)
    index = torch.tensor([0, 1, 0, 1])
    expected = mask_targets(masks, boxes, index)
    wrong_boxes = boxes.clone()
    wrong_boxes[2, 1] = bad
    wrong_vertices = masks.vertices.clone()
    wrong_vertices[-1, 0] = bad
    by_box = mask_targets(masks, wrong_boxes, index)
    by_vertex = mask_targets(masks._replace(vertices=wrong_vertices), boxes, index)
    for plain, box, vertex in zip(expected, by_box, by_vertex):
        assert not box[2].any()
        assert torch.equal(box[[0, 1, 3]], plain[[0, 1, 3]])
        assert not vertex[[1, 3]].any()
        assert torch.equal(vertex[[0, 2]], plain[[0, 2]])


@pytest.mark.parametrize("far", [1e8, 1e12, 3e38])
def test_far_corners_cost_nothing(far):
    masks = Polygons.of([[square(-far, -far, far, far)], [square(far / 2, 0, far, far)]])
    inside, outside = mask_targets(masks, torch.tensor([[0.0, 0.0, 50.0, 50.0]] * 2))[3]
    assert inside.all()
    assert not outside.any()


def test_empty():
    masks, boxes, index = scene()
    targets = mask_targets(masks, boxes[:0], index[:0])
    assert [target.shape for target in targets] == [(0, s, s) for s in SIZES]
    assert mask_targets(masks, boxes, index, []) == []
    nobody = Polygons.of([])
    assert mask_targets(nobody, boxes[:0])[0].shape == (0, 14, 14)
    assert not mask_targets(Polygons.of([[]]), boxes[:1])[3].any()


def test_boxes_of_any_strides_and_dtype():
    masks, boxes, index = scene()
    expected = mask_targets(masks, boxes, index)
    for same in (boxes.T.contiguous().T, boxes.double(), torch.cat([boxes, boxes], 1)[:, :4]):
        for got, want in zip(mask_targets(masks, same, index.int()), expected):
            assert torch.equal(got, want)


@pytest.mark.cpu_only
def test_threads_give_the_same_bits():
    masks, boxes, index = scene(rois=40)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = mask_targets(masks, boxes, index)
        torch.set_num_threads(2)
        for got, expected in zip(mask_targets(masks, boxes, index), alone):
            assert torch.equal(got, expected)
    finally:
        torch.set_num_threads(threads)


def test_registration():
    masks, boxes, index = scene()
    assert_op_is_registered(
        torch.ops.dynamask.mask_targets_polygons.default, (*masks, boxes, index, [14, 28])
    )


def test_compiles_without_a_graph_break():
    compiled = torch.compile(mask_targets, fullgraph=True, dynamic=True, backend="aot_eager")
    for rois in (4, 7):
        masks, boxes, index = scene(rois=rois)
        for got, expected in zip(compiled(masks, boxes, index), mask_targets(masks, boxes, index)):
            assert torch.equal(got, expected)


P, B, N = Polygons.of([[square(0, 0, 2, 2)]] * 2), torch.rand(2, 4), torch.tensor([0, 1])


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((P, B[:, :3], N), ValueError, r"expected boxes \[R, 4\], got \[2, 3\]"),
        ((P, B.int(), N), TypeError, "expected boxes of a floating dtype, got torch.int32"),
        ((P, B, N[None]), ValueError, r"expected index \[R\], got \[1, 2\]"),
        ((P, B, N.float()), TypeError, "expected index of an integer dtype, got torch.float32"),
        ((P, B, N[:1]), ValueError, "expected values in index 2, got 1"),
        ((P, B, N + 1), ValueError, r"expected index in \[0, 2\), got 2 in row 1"),
        ((P, B, N - 1), ValueError, r"expected index in \[0, 2\), got -1 in row 0"),
        ((P, B[:1]), ValueError, "expected boxes, one per instance, 2, got 1"),
        ((P, B, N, [14, 0]), ValueError, r"expected sizes in \[1, 16384\], got 0"),
        ((None, B, N), TypeError, "expected masks as Polygons, a tensor or .*, got NoneType"),
        ((P._replace(rings=B), B, N), ValueError, r"expected masks.rings \[R\+1\], got \[2, 4\]"),
    ],
)
def test_says_what_is_wrong(args, error, message):
    with pytest.raises(error, match=f"mask_targets: {message}"):
        mask_targets(*args)
