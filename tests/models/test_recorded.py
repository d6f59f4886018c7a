"""A detector recorded as a CUDA graph: what a recording needs is shown without a GPU."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dynamask.models.detector import by_image
from dynamask.models.presets import dynamask_r50, dynamask_tiny, maskrcnn_r50
from dynamask.models.recorded import RecordedDetector

from .test_cuda_graph import OnOneDevice

SIZES = [(90, 120), (96, 100)]  # padded to one size


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


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_replays_what_the_detector_does(dtype):
    model = a_model().fused(dtype)
    recorded = RecordedDetector(model, kept=1)
    other_size = [(150, 120), (96, 200)]
    with torch.no_grad():
        # recorded anew, replayed with other pixels and other sizes, forgotten and recorded again
        for seed, sizes in enumerate([SIZES, SIZES, SIZES[::-1], other_size, SIZES]):
            batch = images(seed, sizes, "cuda")
            assert_same(recorded(batch), model(batch), atol=1e-3, rtol=1e-3)
