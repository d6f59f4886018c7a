import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from dynamask import rle

SIZES = [(1, 1), (7, 1), (1, 9), (13, 17), (64, 48), (0, 5), (5, 0)]


def bitmaps(height, width):
    """Noise, blobs, stripes, all, nothing."""
    random = np.random.default_rng(0)
    blob = np.zeros((height, width), np.uint8)
    blob[height // 4 : 3 * height // 4, width // 3 : 2 * width // 3] = 1
    stripes = np.zeros((height, width), np.uint8)
    stripes[:, ::2] = 1
    noise = (random.random((height, width)) < 0.5).astype(np.uint8)
    return [noise, blob, stripes, np.ones_like(blob), np.zeros_like(blob)]


def coco_encode(bitmap):
    return coco.encode(np.asfortranarray(bitmap))


bitmap_strategy = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)
)


def test_by_hand():
    # down the first column: 1 background, 2 foreground; down the second: 3 background
    mask = rle.encode(np.array([[0, 0], [1, 0], [1, 0]], np.uint8))
    assert mask == {"size": [3, 2], "counts": b"123"}
    assert rle.decode(mask).tolist() == [[0, 0], [1, 0], [1, 0]]
    assert (rle.area(mask), rle.to_bbox(mask)) == (2, [0, 1, 1, 2])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_pycocotools(size):
    for bitmap in bitmaps(*size):
        mask = rle.encode(bitmap)
        assert mask == coco_encode(bitmap)
        decoded = rle.decode(mask)
        assert np.array_equal(decoded, bitmap)
        assert (decoded.dtype, decoded.flags.f_contiguous) == (np.uint8, True)
        assert rle.area(mask) == coco.area(mask)
        assert rle.to_bbox(mask) == coco.toBbox(mask).tolist()


@given(bitmap_strategy)
@settings(deadline=None)
def test_any_bitmap_equals_pycocotools(bitmap):
    mask = rle.encode(bitmap)
    assert mask == coco_encode(bitmap)
    assert np.array_equal(rle.decode(mask), bitmap)
    assert rle.to_bbox(mask) == coco.toBbox(mask).tolist()


@pytest.mark.parametrize("size", SIZES[:-2], ids=str)
def test_pairs_equal_pycocotools(size):
    masks = [coco_encode(bitmap) for bitmap in bitmaps(*size)]
    crowd = [True, False, True, False, False]
    assert np.array_equal(rle.iou(masks, masks), coco.iou(masks, masks, [0] * 5))
    assert np.array_equal(rle.iou(masks, masks, crowd), coco.iou(masks, masks, crowd))
    for a in masks:
        for b in masks:
            for intersect in (False, True):
                assert rle.merge([a, b], intersect) == coco.merge([a, b], intersect)
    assert rle.merge(masks) == coco.merge(masks)


def test_pairs_of_nothing():
    assert rle.iou([], []).shape == (0, 0)
    assert rle.iou([coco_encode(np.ones((2, 2), np.uint8))], []).shape == (1, 0)


def test_takes_what_holds_pixels():
    bitmap = bitmaps(13, 17)[0]
    expected = coco_encode(bitmap)
    assert rle.encode(torch.from_numpy(bitmap)) == expected
    assert rle.encode(torch.from_numpy(bitmap).bool()) == expected
    assert rle.encode(bitmap * 255) == expected
    assert rle.encode(np.asfortranarray(bitmap)) == expected
    assert rle.encode(np.repeat(bitmap, 2, axis=1)[:, ::2]) == expected


def test_takes_every_form_of_counts():
    bitmap = bitmaps(13, 17)[0]
    mask = rle.encode(bitmap)
    edges = np.flatnonzero(np.diff(bitmap.flatten("F"), prepend=0, append=2))
    lengths = np.diff(edges, prepend=0).tolist()
    for counts in (mask["counts"].decode(), lengths, tuple(lengths), np.array(lengths)):
        assert rle.validate({"size": [13, 17], "counts": counts}) == mask
        assert np.array_equal(rle.decode({"size": [13, 17], "counts": counts}), bitmap)
    through_json = json.loads(json.dumps(mask | {"counts": mask["counts"].decode()}))
    assert rle.validate(through_json, 13, 17) == mask


def test_empty_runs_count_for_nothing():
    assert rle.area({"size": [2, 2], "counts": [0, 1, 0, 3]}) == 4
    assert rle.to_bbox({"size": [2, 2], "counts": [2, 0, 2]}) == [0, 0, 0, 0]
    assert rle.to_bbox({"size": [2, 2], "counts": [1, 0, 1, 1, 1]}) == [1, 0, 1, 1]


def counts(text, size=(2, 2)):
    return {"size": list(size), "counts": text}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (counts(b"4!"), r"a byte in \[48, 111\] at byte 1 of counts, got 33"),
        (counts(b"p"), r"a byte in \[48, 111\] at byte 0 of counts, got 112"),
        (counts(b"\0"), r"a byte in \[48, 111\] at byte 0 of counts, got 0"),
        (counts("\u00e4"), r"a byte in \[48, 111\] at byte 0 of counts, got '\u00e4'"),
        (counts(b"1o"), "the rest of the number at byte 1 of counts, got the end after 2 bytes"),
        (counts(b"oooooooo0"), "a number of at most 7 bytes at byte 0 of counts, got one that"),
        (counts(b"1O"), "a run of at least 0 pixels at byte 1 of counts, got -1"),
        (counts(b"111I"), "a run of at least 0 pixels at byte 3 of counts, got -6"),
        (counts(b"3"), "runs of 4 pixels together, got 3"),
        (counts(b""), "runs of 4 pixels together, got 0"),
        (
            counts(b"32"),
            "runs of 4 pixels together, got more with the run of 2 at byte 1",
        ),
        (counts([3]), "runs of 4 pixels together, got 3"),
        (
            counts([3, 2]),
            "runs of 4 pixels together, got more with the run of 2 at index 1",
        ),
        (counts([5, -1]), r"an integer in \[0, 2\*\*31\) at index 1 of counts, got -1"),
        (counts([2**40]), r"an integer in \[0, 2\*\*31\) at index 0 of counts, got 1099511627776"),
        (counts([4.0]), r"an integer in \[0, 2\*\*31\) at index 0 of counts, got 4.0"),
        (counts(["4"]), r"an integer in \[0, 2\*\*31\) at index 0 of counts, got '4'"),
        (counts([True]), r"an integer in \[0, 2\*\*31\) at index 0 of counts, got True"),
        (counts(None), "counts of bytes, str or a list, got None"),
        (counts(b"4", (-2, -2)), r"size of numbers in \[0, 2\*\*31\), got \[-2, -2\]"),
        (counts(b"4", (2**31, 1)), r"size of numbers in \[0, 2\*\*31\)"),
        (counts(b"4", (10**5, 10**5)), r"a size of at most 2147483647 pixels, got \[100000, 1"),
        (counts(b"4", (2**31 - 1, 2**31 - 1)), "a size of at most 2147483647 pixels"),
        (counts(b"4", (2, 2, 1)), r"size \[height, width\] of two integers, got \[2, 2, 1\]"),
        (counts(b"4", (2.0, 2)), r"size \[height, width\] of two integers, got \[2.0, 2\]"),
        ({"size": 4, "counts": b"4"}, r"size \[height, width\] of two integers, got 4"),
        ({"counts": b"4"}, "a dict with size and counts, got {'counts': b'4'}"),
        (b"4", "a dict with size and counts, got b'4'"),
    ],
)
@pytest.mark.parametrize(
    "function", [rle.decode, rle.area, rle.to_bbox, rle.validate, lambda r: rle.merge([r])]
)
def test_refuses_the_malformed(mask, message, function):
    with pytest.raises(ValueError, match=f"rle: expected {message}"):
        function(mask)


A, B = coco_encode(np.ones((2, 3), np.uint8)), coco_encode(np.ones((3, 2), np.uint8))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rle.validate(A, 3, 2), ValueError, r"size \[3, 2\], got \[2, 3\]"),
        (lambda: rle.merge([A, B]), ValueError, r"one size \[2, 3\], got \[3, 2\] at index 1"),
        (lambda: rle.iou([A], [B]), ValueError, r"one size \[2, 3\], got \[3, 2\] at index 1"),
        (lambda: rle.iou([A], [A], [0, 1]), ValueError, "1 crowd flags, got 2"),
        (lambda: rle.merge([]), ValueError, "at least one mask, got none"),
        (lambda: rle.encode(np.ones((2, 2))), TypeError, "bool or uint8, got float64"),
        (lambda: rle.encode(np.ones((1, 2, 2), bool)), ValueError, r"\[H, W\], got \[1, 2, 2\]"),
    ],
)
def test_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=f"rle: expected .*{message}"):
        call()


@pytest.mark.parametrize(
    "ring", ["0123456", 7, None, [[0, 0], [4, 0], [4, 4]], [0, 0, "4", 0, 4, 4]]
)
def test_rings_are_flat_lists_of_numbers(ring):
    with pytest.raises(ValueError, match="rle: expected a flat list of numbers in ring 1, got"):
        rle.from_polygons([[0, 0, 4, 0, 4, 4], ring], 5, 5)


@given(bitmap_strategy, st.data())
@settings(deadline=None, max_examples=300)
def test_damage_is_refused_or_decodes_to_a_bitmap(bitmap, data):
    mask = rle.encode(bitmap)
    damaged = bytearray(mask["counts"])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged)))
        cut = data.draw(st.integers(0, 2))
        damaged[place : place + cut] = data.draw(st.binary(max_size=2))
    mask["counts"] = bytes(damaged)
    try:
        decoded = rle.decode(mask)
    except ValueError:
        pass
    else:
        assert decoded.shape == bitmap.shape
        assert decoded.max() <= 1
        assert rle.area(mask) == decoded.sum()
        assert rle.encode(decoded)["size"] == mask["size"]
