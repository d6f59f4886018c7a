import pytest
import torch

from dynamask.models.backbone import small_fpn
from dynamask.models.presets import dynamask_tiny
from dynamask.ops import Polygons


def target(count: int, width: int, height: int, classes: int = 5) -> dict:
    corner = torch.rand(count, 2) * torch.tensor([width * 0.5, height * 0.5])
    boxes = torch.cat([corner, corner + 12 + torch.rand(count, 2) * 40], 1)
    outlines = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in boxes.tolist()]
    labels = torch.randint(classes, (count,))
    return {"boxes": boxes, "labels": labels, "polygons": Polygons.of(outlines)}


@pytest.fixture
def images():
    return [torch.rand(3, 96, 128), torch.rand(3, 120, 90)]


@pytest.mark.parametrize("counts", [(4, 2), (0, 3), (0, 0)], ids=str)
def test_a_training_step_gives_finite_losses_and_gradients(images, counts):
    model = dynamask_tiny(5)
    targets = [target(n, 90, 96) for n in counts]
    losses = model(images, targets)
    assert {"rpn_objectness", "rpn_box", "class", "box"} < losses.keys()
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_no_positive_roi_means_zero_losses_that_hang_on_the_graph(images):
    losses = dynamask_tiny(5)(images, [target(0, 90, 96) for _ in images])
    assert losses.pop("rpn_objectness") > 0
    assert losses.pop("class") > 0
    for loss in losses.values():
        assert loss == 0
        assert loss.requires_grad


def test_predictions_lie_in_their_images(images):
    model = dynamask_tiny(5, score_threshold=0.0).eval()
    with torch.no_grad():
        predictions = model(images)
    for image, prediction in zip(images, predictions):
        height, width = image.shape[1:]
        assert prediction.image_size == (height, width)
        assert len(prediction) > 0
        assert (prediction.boxes >= 0).all()
        assert (prediction.boxes <= torch.tensor([width, height, width, height])).all()
        assert (prediction.scores.diff() <= 0).all()
        assert ((prediction.labels >= 0) & (prediction.labels < 5)).all()
        assert ((prediction.masks.values >= 0) & (prediction.masks.values <= 1)).all()


def test_masks_may_come_in_a_longer_buffer(images, monkeypatch):
    model = dynamask_tiny(5, score_threshold=0.0).eval()
    decode = model.mask_branch.decode

    def with_room(*args):
        masks = decode(*args)
        return masks._replace(values=torch.cat([masks.values, torch.full((50,), torch.nan)]))

    with torch.no_grad():
        expected = model(images)
        monkeypatch.setattr(model.mask_branch, "decode", with_room)
        predictions = model(images)
    for prediction, wanted in zip(predictions, expected, strict=True):
        assert torch.equal(prediction.masks.values, wanted.masks.values)
        assert torch.equal(prediction.masks.sizes, wanted.masks.sizes)


def test_an_image_alone_gives_what_it_gives_in_a_batch(images):
    model = dynamask_tiny(5, score_threshold=0.0).eval()
    images = [torch.rand(3, 96, 128), torch.rand(3, 90, 120)]  # padded to the same size
    with torch.no_grad():
        together, alone = model(images), [model([image])[0] for image in images]
    for a, b in zip(together, alone):
        torch.testing.assert_close(a.boxes, b.boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(a.masks.values, b.masks.values, atol=1e-4, rtol=1e-4)


def test_nothing_found_is_no_error(images):
    model = dynamask_tiny(5, score_threshold=1.0).eval()
    with torch.no_grad():
        assert [len(prediction) for prediction in model(images)] == [0, 0]


def test_runs_under_autocast(images):
    model = dynamask_tiny(5, score_threshold=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, [target(3, 90, 96) for _ in images])
        predictions = model.eval()(images)
    assert all(loss.isfinite() for loss in losses.values())
    assert all(prediction.boxes.dtype == torch.float32 for prediction in predictions)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "expected a list of at least one image"),
        ([torch.rand(1, 8, 8)], ValueError, r"expected image 0 to be \[3, H, W\], got \[1, 8, 8\]"),
        ([torch.zeros(3, 8, 8, dtype=torch.uint8)], TypeError, "expected image 0 as floats"),
        ([torch.rand(3, 32, 32)], ValueError, "expected 1 targets, got None"),
    ],
)
def test_says_what_is_wrong(images, error, message):
    with pytest.raises(error, match=f"detector: {message}"):
        dynamask_tiny(5)(images)


def test_frozen_stages_are_left_alone():
    backbone = small_fpn(norm="bn")
    backbone.freeze(2)
    backbone.train()
    before = {name: value.clone() for name, value in backbone.body.named_buffers()}
    sum(level.sum() for level in backbone(torch.rand(2, 3, 64, 64))).backward()
    trained = {
        name.split(".")[0] for name, p in backbone.body.named_parameters() if p.grad is not None
    }
    moved = {
        name.split(".")[0]
        for name, value in backbone.body.named_buffers()
        if not torch.equal(value, before[name])
    }
    assert trained == moved == {"layer3", "layer4"}
