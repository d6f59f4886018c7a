"""Polygons, and between polygons and run-length masks: every mask comes back from its outline."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from dynamask import rle
from dynamask.ops import Polygons, mask_targets

SQUARE = [0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0]
TRIANGLE = [1.0, 1.0, 7.0, 1.0, 1.0, 3.0]


def as_lists(polygons):
    rings, instances = polygons.rings.tolist(), polygons.instances.tolist()
    vertices = polygons.vertices.tolist()
    return [
        [[n for xy in vertices[rings[r] : rings[r + 1]] for n in xy] for r in range(first, end)]
        for first, end in pairwise(instances)
    ]


OUTLINES = [[SQUARE], [TRIANGLE, SQUARE], [], [TRIANGLE]]


def test_of_lists_by_hand():
    polygons = Polygons.of([[SQUARE], [TRIANGLE, TRIANGLE]])
    assert polygons.vertices.shape == (10, 2)
    assert polygons.rings.tolist() == [0, 4, 7, 10]
    assert polygons.instances.tolist() == [0, 1, 3]
    assert as_lists(polygons) == [[SQUARE], [TRIANGLE, TRIANGLE]]


@pytest.mark.parametrize("index", [[0, 1, 2, 3], [3, 1, 1], [2, 2], []])
def test_select(index):
    picked = Polygons.of(OUTLINES).select(torch.tensor(index, dtype=torch.int64))
    assert as_lists(picked) == [OUTLINES[i] for i in index]
    assert (picked.rings.dtype, picked.vertices.dtype) == (torch.int64, torch.float32)


def test_cat():
    parts = [Polygons.of(OUTLINES[:2]), Polygons.of([]), Polygons.of(OUTLINES[2:])]
    assert as_lists(Polygons.cat(parts)) == OUTLINES
    assert as_lists(Polygons.cat([])) == []


def test_boxes():
    boxes = Polygons.of(OUTLINES).boxes()
    assert boxes.tolist() == [[0, 0, 4, 4], [0, 0, 7, 4], [0, 0, 0, 0], [1, 1, 7, 3]]
    assert Polygons.of([]).boxes().shape == (0, 4)


@pytest.mark.parametrize(
    ("ring", "message"),
    [
        (SQUARE[:7], "expected x and y in turn in ring 1 of instance 2, got 7"),
        (SQUARE[:4], "expected at least 3 corners in ring 1 of instance 2, got 2"),
        ([], "expected at least 3 corners in ring 1 of instance 2, got 0"),
        ([*SQUARE[:7], float("nan")], "expected finite numbers in ring 1 of instance 2, got nan"),
        ([*SQUARE[:7], 1e40], r"expected finite numbers in ring 1 of instance 2, got 1e\+40"),
        ([*SQUARE[:7], "4"], "expected finite numbers in ring 1 of instance 2, got '4'"),
        ([[0, 0], [4, 0], [4, 4], [0, 4], [0, 2], [0, 1]], r"expected finite numbers .* \[0, 1\]"),
        ([*SQUARE[:7], [4, 4]], r"expected finite numbers in ring 1 of instance 2, got \[4, 4\]"),
    ],
)
def test_refuses_a_bad_ring(ring, message):
    with pytest.raises(ValueError, match=f"Polygons: {message}"):
        Polygons.of([[SQUARE], [], [SQUARE, ring]])


def bitmap(*rows):
    return np.array([[character == "#" for character in row] for row in rows], dtype=np.uint8)


BITMAPS = {
    "pixel": bitmap("...", ".#.", "..."),
    "diagonal touch": bitmap("#..", ".#.", "..#"),
    "other diagonal": bitmap("..#", ".#.", "#.."),
    "ring": bitmap("####", "#..#", "####"),
    "two holes": bitmap("#####", "#.#.#", "#####"),
    "holes that touch": bitmap("#####", "#.###", "##.##", "#####"),
    "hole at a corner": bitmap("####", "#.##", "###.", "####"),
    "hole in hole": bitmap(
        "#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"
    ),
    "comb": bitmap("#.#.#", "#.#.#", "#####"),
    "checkerboard": np.indices((6, 7)).sum(0).astype(np.uint8) % 2,
    "full": np.ones((5, 3), np.uint8),
    "row": np.ones((1, 9), np.uint8),
}


def components(mask):
    """The number of 4-connected pieces."""
    left, count = {tuple(pixel) for pixel in np.argwhere(mask).tolist()}, 0
    while left:
        stack, count = [left.pop()], count + 1
        while stack:
            y, x = stack.pop()
            near = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left
            left -= near
            stack.extend(near)
    return count


def assert_comes_back(mask):
    height, width = mask.shape
    encoded = rle.encode(mask)
    rings = rle.to_polygons(encoded)
    assert len(rings) == components(mask)
    assert rle.from_polygons(rings, height, width) == encoded
    if rings:
        assert coco.merge(coco.frPyObjects(rings, height, width)) == encoded
        box = torch.tensor([[0.0, 0.0, 28.0, 28.0]])
        canvas = np.zeros((28, 28), np.uint8)
        canvas[:height, :width] = mask[:28, :28]
        target = mask_targets(Polygons.of([rings]), box, sizes=[28])[0][0]
        assert np.array_equal(target.cpu().numpy(), canvas)


@pytest.mark.parametrize("name", BITMAPS)
def test_outlines_fill_to_the_same_mask(name):
    assert_comes_back(BITMAPS[name])


def test_outlines_of_nothing():
    for shape in ((4, 5), (0, 5), (5, 0)):
        assert rle.to_polygons(rle.encode(np.zeros(shape, np.uint8))) == []


@given(
    arrays.arrays(
        np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)
    )
)
@settings(deadline=None, max_examples=200)
def test_outlines_of_any_mask_fill_to_it(mask):
    assert_comes_back(mask)


def test_outlines_of_blobs_fill_to_them():
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.rand(1, 28, 28, generator=generator, device="cpu")
        assert_comes_back((torch.nn.functional.avg_pool2d(noise, 3, 1, 1)[0] > 0.5).byte().numpy())


def test_outline_by_hand():
    assert rle.to_polygons(rle.encode(BITMAPS["full"])) == [[3, 0, 3, 5, 0, 5, 0, 0]]
    (ring,) = rle.to_polygons(rle.encode(BITMAPS["ring"]))
    # down the slit, around the hole, back up, and around the outside
    assert ring == [1, 0, 1, 2, 3, 2, 3, 1, 1, 1, 1, 0, 4, 0, 4, 3, 0, 3, 0, 0]


@pytest.mark.parametrize("spread", [3, 30, 300, 3000])
@pytest.mark.parametrize("grid", [None, 1.0, 0.2])
def test_filling_equals_pycocotools(spread, grid):
    random = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 40), (40, 1), (31, 47), (90, 64)):
        for count in (1, 1, 2, 5):
            rings = [random.normal(20, spread, 2 * random.integers(3, 9)) for _ in range(count)]
            if grid:
                rings = [np.round(ring / grid) * grid for ring in rings]
            rings = [ring.tolist() for ring in rings]
            expected = coco.merge(coco.frPyObjects(rings, height, width))
            assert rle.from_polygons(rings, height, width) == expected


def test_filling_far_corners_costs_nothing():
    far = [-1e300, -1e300, 1e300, -1e300, 1e300, 1e300, -1e300, 1e300]
    assert rle.from_polygons([far], 30, 40) == rle.encode(np.ones((30, 40), np.uint8))


@pytest.mark.parametrize(
    ("ring", "message"),
    [
        (SQUARE[:7], "expected an even count of numbers in ring 1, got 7"),
        (SQUARE[:4], "expected at least 3 corners in ring 1, got 2"),
        ([*SQUARE[:7], float("inf")], "expected finite numbers in ring 1, got inf at index 7"),
    ],
)
def test_filling_refuses_a_bad_ring(ring, message):
    with pytest.raises(ValueError, match=f"rle: {message}"):
        rle.from_polygons([SQUARE, ring], 9, 9)


def test_tracing_refuses_a_malformed_mask():
    with pytest.raises(ValueError, match="rle: expected runs of 20 pixels together, got 1"):
        rle.to_polygons({"size": [4, 5], "counts": b"1"})
