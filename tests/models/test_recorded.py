"""A detector recorded as a CUDA graph: what a recording needs is shown without a GPU."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dynamask.models.detector import by_image
from dynamask.models.presets import dynamask_r50, dynamask_tiny, maskrcnn_r50
from dynamask.models.recorded import WARM_UPS, RecordedDetector

from ..pretend_cuda import PretendCuda
from .test_cuda_graph import OnOneDevice

SIZES = [(90, 120), (96, 100)]  # padded to one size
OTHER_SIZES = [(90, 60), (96, 50)]


def images(seed=0, sizes=SIZES, device="cpu"):
    random = torch.Generator().manual_seed(seed)
    made = [torch.rand(3, *size, generator=random, device="cpu") for size in sizes]
    return [image.to(device) for image in made]


@torch.no_grad()
def a_model(**options):
    """An untrained model that finds something in about half of its slots."""
    torch.manual_seed(1)
    model = dynamask_tiny(5, score_threshold=0.0, **options).eval()
    found = model(images(device=next(model.parameters()).device))
    scores = torch.cat([of_image.scores for of_image in found])
    model.postprocess = replace(model.postprocess, score_threshold=scores.median().item())
    return model


def assert_same(some, others, **tolerance):
    for a, b in zip(some, others, strict=True):
        assert a.image_size == b.image_size
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.mask_size, b.mask_size)
        torch.testing.assert_close(a.boxes, b.boxes, **tolerance)
        torch.testing.assert_close(a.scores, b.scores, **tolerance)
        torch.testing.assert_close(a.masks.values, b.masks.values, **tolerance)


@pytest.mark.parametrize("selector", ["dynamic", "size"])
def test_slots_where_nothing_is_change_nothing(selector):
    model = a_model(selector=selector)
    batch = model.batch(images())
    with torch.no_grad():
        found, masks = model.every_slot(batch)
        assert found.valid.any()
        assert not found.valid.all()
        picked = by_image(found, masks.select(found.valid.flatten()), batch.sizes)
        assert_same(picked, model(images()), atol=1e-5, rtol=1e-5)


def test_a_slot_where_nothing_is_gets_the_smallest_mask():
    model = a_model(selector="fixed=112")
    with torch.no_grad():
        found, masks = model.every_slot(model.batch(images()))
    assert (masks.sizes[found.valid.flatten()] == 112).all()
    assert (masks.sizes[~found.valid.flatten()] == 14).all()


@pytest.mark.parametrize("make", [dynamask_tiny, dynamask_r50, maskrcnn_r50])
def test_nothing_waits_for_the_device(make):
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        model = make(5).eval()
        batch = model.batch([torch.rand(3, *size) for size in SIZES])
        model.every_slot(batch)  # the first call moves the shapes of the anchors
        with OnOneDevice():
            found, masks = model.every_slot(batch)
    assert found.boxes.shape == (2, model.postprocess.detections, 4)
    assert found.boxes.device.type == masks.values.device.type == "cuda"
    assert len(masks.sizes) == found.valid.numel()


def test_needs_a_gpu():
    with pytest.raises(ValueError, match="expected a detector on cuda, got cpu"):
        RecordedDetector(a_model())


@pytest.fixture
def pretended(monkeypatch):
    """A recorded detector on a device that only says it is CUDA, and how many streams it made."""
    streams = []
    with PretendCuda(), torch.device("cuda"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*CUDA is not available")  # of autocast
        make = torch.cuda.Stream
        monkeypatch.setattr(torch.cuda, "Stream", lambda *d: streams.append(make()) or streams[-1])
        yield RecordedDetector(a_model(detections=12), kept=2), streams


def of_counts(predictions, sizes=(14, 28, 56, 112)):
    found = [size for of_image in predictions for size in of_image.mask_size.tolist()]
    return [found.count(size) for size in sizes]


def test_counts_are_those_of_the_latest_batch(pretended):
    recorded, _ = pretended
    branch = recorded.detector.mask_branch
    assert recorded.last_counts == [0] * 4
    seen = []
    for seed, sizes in enumerate([SIZES, OTHER_SIZES, SIZES, OTHER_SIZES]):
        found = recorded(images(seed, sizes, "cuda"))
        assert recorded.last_counts == of_counts(found)
        seen.append(branch.last_counts)
    assert len({tuple(counts) for counts in seen[1:]}) == 1  # nothing that a replay writes to


def test_all_recordings_are_of_the_same_streams(pretended):
    recorded, streams = pretended
    for sizes in (SIZES, OTHER_SIZES, SIZES, [(40, 40)], SIZES):
        recorded(images(0, sizes, "cuda"))
    assert len(streams) == 2
    assert [tuple(size[2:]) for size in recorded._recordings] == [(64, 64), (96, 128)]


def test_recorded_in_inference_mode_and_replayed_outside_of_it(pretended):
    recorded, _ = pretended
    with torch.inference_mode():
        recorded(images(0, device="cuda"))
    found = recorded(images(1, device="cuda"))
    assert_same(found, recorded.detector(images(1, device="cuda")), atol=1e-5, rtol=1e-5)


def test_autocast_stays_out_of_a_recording(pretended, monkeypatch):
    recorded, _ = pretended
    inside, every_slot = [], recorded.detector.every_slot

    def spy(batch):
        inside.append(torch.is_autocast_enabled("cuda"))
        return every_slot(batch)

    monkeypatch.setattr(recorded.detector, "every_slot", spy)
    torch.set_autocast_enabled("cuda", True)
    try:
        recorded(images(device="cuda"))
        assert torch.is_autocast_enabled("cuda")
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert inside == [False] * (WARM_UPS + 1)


def test_a_failed_recording_is_none(pretended, monkeypatch):
    recorded, _ = pretended
    calls, every_slot, pool = [], recorded.detector.every_slot, recorded._pool

    def fails_once(batch):
        calls.append(batch)
        if len(calls) == WARM_UPS + 1:
            raise torch.OutOfMemoryError("in a capture")
        return every_slot(batch)

    monkeypatch.setattr(recorded.detector, "every_slot", fails_once)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    with pytest.raises(torch.OutOfMemoryError):
        recorded(images(device="cuda"))
    assert recorded._pool is not pool
    found = recorded(images(device="cuda"))
    assert_same(found, recorded.detector(images(device="cuda")), atol=1e-5, rtol=1e-5)


def test_keeps_at_least_one(pretended):
    with pytest.raises(ValueError, match="expected kept >= 1, got 0"):
        RecordedDetector(pretended[0].detector, kept=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_replays_what_the_detector_does(dtype):
    model = a_model().fused(dtype)
    recorded = RecordedDetector(model, kept=1)
    other_size = [(150, 120), (96, 200)]
    with torch.no_grad():
        # recorded anew, replayed with other pixels and other sizes, forgotten and recorded again
        for seed, sizes in enumerate([SIZES, SIZES, SIZES[::-1], other_size, SIZES]):
            given = images(seed, sizes, "cuda")
            batch = model.batch(given)
            found, masks = model.every_slot(batch)  # of the same shapes, so by the same kernels
            expected = by_image(found, masks.select(found.valid.flatten()), batch.sizes)
            assert_same(recorded(given), expected, atol=1e-3, rtol=1e-3)
