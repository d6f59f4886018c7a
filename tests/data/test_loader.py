import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from dynamask.data import (
    DataError,
    EvalTransform,
    TrainTransform,
    data_loader,
    open_dataset,
    steps_per_epoch,
)

COUNT = 7


@pytest.fixture
def dataset(tmp_path, content):
    """Seven noisy images."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    for k in range(COUNT):
        noise = rng.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{k}.png")
    content["images"] = [
        {"id": k, "file_name": f"{k}.png", "height": 40, "width": 60} for k in range(COUNT)
    ]
    for annotation in content["annotations"]:
        annotation["image_id"] = 0
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(content))
    return open_dataset(tmp_path, "train")


def train_loader(dataset, **options):
    transform = TrainTransform((24, 32, 40), 100, 0.5, photometric=True)
    return data_loader(dataset, transform, 2, **{"seed": 5, "steps": 11, **options})


def ids(batches):
    return [[target["image_id"] for target in targets] for _, targets in batches]


def assert_same(some, others):
    some, others = list(some), list(others)
    assert len(some) == len(others)
    for (images, targets), (other_images, other_targets) in zip(some, others):
        assert all(map(torch.equal, images, other_images))
        for target, other in zip(targets, other_targets):
            assert target["image_id"] == other["image_id"]
            assert torch.equal(target["boxes"], other["boxes"])
            assert torch.equal(target["polygons"].vertices, other["polygons"].vertices)


def test_evaluation_goes_through_once_in_order(dataset):
    loader = data_loader(dataset, EvalTransform(20, 100), 3)
    assert len(loader) == 3
    assert ids(loader) == [[0, 1, 2], [3, 4, 5], [6]]
    images, _ = next(iter(loader))
    assert [image.shape for image in images] == [(3, 20, 30)] * 3


def test_every_epoch_holds_every_image_in_a_new_order(dataset):
    stream = [k for batch in ids(train_loader(dataset, steps=14)) for k in batch]
    epochs = [stream[k : k + COUNT] for k in range(0, 28, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4


def test_seeds_differ_and_repeat(dataset):
    assert_same(train_loader(dataset), train_loader(dataset))
    assert ids(train_loader(dataset)) != ids(train_loader(dataset, seed=6))


def test_augmentation_changes_between_epochs(dataset):
    stream = train_loader(dataset, steps=14)
    samples = [sample for batch in stream for sample in zip(*batch)]
    versions = [image for image, target in samples if target["image_id"] == 3]
    assert len(versions) == 4
    assert not all(torch.equal(versions[0], other) for other in versions[1:])


def test_the_global_generator_neither_matters_nor_moves(dataset):
    torch.manual_seed(1)
    first = list(train_loader(dataset))
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    torch.manual_seed(2)
    assert_same(first, train_loader(dataset))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first", [0, 3, 7])
def test_resumed_runs_see_the_same_bits(dataset, workers, first):
    whole = list(train_loader(dataset))
    rest = train_loader(dataset, first_step=first, steps=11 - first, workers=workers)
    assert len(rest) == 11 - first
    assert_same(whole[first:], rest)


def test_steps_default_to_the_end_of_the_epoch(dataset):
    assert steps_per_epoch(COUNT, 2) == 4
    assert len(train_loader(dataset, steps=None)) == 4
    assert len(train_loader(dataset, steps=None, first_step=1)) == 3
    assert len(train_loader(dataset, steps=None, first_step=4)) == 4


class TestUnreadable:
    @pytest.fixture(autouse=True)
    def damage(self, dataset):
        for k in (2, 5):
            path = dataset.image_path(k)
            path.write_bytes(path.read_bytes()[:400])

    @pytest.mark.parametrize("workers", [0, 1])
    def test_stops_with_the_name_of_the_file(self, dataset, workers):
        with pytest.raises(DataError, match=r"cannot read image .*png"):
            list(train_loader(dataset, workers=workers))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_budget_lets_others_take_their_place(self, dataset, workers):
        loader = train_loader(dataset, max_unreadable=2, workers=workers)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            batches = list(loader)
        assert sorted(loader.unreadable) == [2, 5]
        assert len([w for w in caught if "cannot read image" in str(w.message)]) == 2
        assert [len(images) for images, _ in batches] == [2] * 11
        assert not {2, 5} & {k for batch in ids(batches) for k in batch}

    def test_the_budget_ends(self, dataset):
        with (
            pytest.warns(UserWarning, match="cannot read image"),
            pytest.raises(DataError, match="2 images could not be read, 1 were allowed"),
        ):
            list(train_loader(dataset, max_unreadable=1))


def test_says_what_is_wrong(dataset):
    with pytest.raises(ValueError, match="expected batch_size >= 1, got 0"):
        data_loader(dataset, EvalTransform(20, 30), 0)
    with pytest.raises(DataError, match="the data set is empty"):
        data_loader(dataset.subset([]), EvalTransform(20, 30), 2)
