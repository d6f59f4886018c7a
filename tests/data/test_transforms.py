import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from dynamask.data.transforms import Corners, EvalTransform, TrainTransform, resized_size
from dynamask.ops import Polygons


def sample(height=40, width=60):
    """A bright rectangle on black, its box and its outline."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, 10:20, 5:35] = 255
    target = {
        "boxes": torch.tensor([[5.0, 10, 35, 20]]),
        "labels": torch.tensor([2]),
        "polygons": Polygons.of([[[5, 10, 35, 10, 35, 20, 5, 20]]]),
        "image_id": 9,
        "original_size": (height, width),
    }
    return image, target


def check_agreement(image, target):
    """Box, outline and bright pixels are in the same place."""
    vertices = target["polygons"].vertices
    around = torch.cat([vertices.amin(0), vertices.amax(0)])
    torch.testing.assert_close(around, target["boxes"][0])
    bright = (image[0] > 0.5).nonzero()
    low, high = bright.amin(0).flip(0), bright.amax(0).flip(0) + 1
    assert (torch.cat([low, high]) - around).abs().max() <= 0.75


def test_eval_transform_by_hand():
    image, target = EvalTransform(20, 1000)(*sample())
    assert image.shape == (3, 20, 30)
    assert image.dtype == torch.float32
    assert 0.9 < image.max() <= 1
    assert target["boxes"].tolist() == [[2.5, 5, 17.5, 10]]
    assert target["polygons"].vertices.tolist() == [[2.5, 5], [17.5, 5], [17.5, 10], [2.5, 10]]
    assert target["labels"].tolist() == [2]
    assert target["image_id"] == 9
    assert target["original_size"] == (40, 60)
    assert type(image) is torch.Tensor
    assert type(target["boxes"]) is torch.Tensor
    assert type(target["polygons"].vertices) is torch.Tensor


def test_flip_by_hand():
    image, target = TrainTransform([40], 1000, flip=1.0)(*sample())
    assert target["boxes"].tolist() == [[25, 10, 55, 20]]
    assert target["polygons"].vertices.tolist() == [[55, 10], [25, 10], [25, 20], [55, 20]]
    assert image[0, 10:20, 25:55].min() == 1
    assert image[0].sum() == 300


def test_corners_stay_corners_through_other_transforms():
    corners = Corners(torch.tensor([[5.0, 10], [35, 20]]), canvas_size=(40, 60))
    boxes = tv_tensors.BoundingBoxes(
        torch.tensor([[5.0, 10, 35, 20]]), format="XYXY", canvas_size=(40, 60)
    )
    change = v2.Compose(
        [v2.RandomVerticalFlip(1.0), v2.Resize([80, 30]), v2.RandomHorizontalFlip(1.0)]
    )
    moved, box = change(corners, boxes)
    assert isinstance(moved, Corners)
    points = moved.as_subclass(torch.Tensor)
    around = torch.cat([points.amin(0), points.amax(0)])
    torch.testing.assert_close(around, box.as_subclass(torch.Tensor)[0])


@pytest.mark.parametrize("seed", range(6))
def test_image_boxes_and_outlines_move_together(seed):
    torch.manual_seed(seed)
    transform = TrainTransform((30, 40, 55, 80), 100, flip=0.5, photometric=False)
    check_agreement(*transform(*sample()))


def test_photometric_changes_colours_alone():
    torch.manual_seed(3)
    image, target = sample()
    image[:] = 90
    changed, moved = TrainTransform([40], 1000, flip=0.0, photometric=True)(image, target)
    assert changed.shape == (3, 40, 60)
    assert not torch.equal(changed, image.float() / 255)
    assert torch.equal(moved["boxes"], target["boxes"])
    assert image.unique().tolist() == [90]


def test_the_given_sample_is_left_alone():
    image, target = sample()
    TrainTransform([20], 1000, flip=1.0)(image, target)
    again = sample()
    assert torch.equal(image, again[0])
    assert torch.equal(target["boxes"], again[1]["boxes"])
    assert torch.equal(target["polygons"].vertices, again[1]["polygons"].vertices)


def test_no_instances():
    image, target = sample()
    target["boxes"], target["polygons"] = torch.empty(0, 4), Polygons.of([])
    for transform in (EvalTransform(20, 100), TrainTransform([20], 100, 1.0, True)):
        _, moved = transform(image, target)
        assert moved["boxes"].shape == (0, 4)
        assert moved["polygons"].vertices.shape == (0, 2)


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((400, 1000), 800, 1333, (533, 1333)),
        ((1000, 400), 800, 1333, (1333, 533)),
        ((1, 5000), 800, 1333, (1, 1333)),
    ],
)
def test_resized_size(size, short, longest, expected):
    assert resized_size(*size, short, longest) == expected
