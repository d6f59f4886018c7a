import pytest
import torch

from dynamask.ops import RaggedMasks

SIZES = [2, 0, 3, 1]


def ragged():
    masks = [torch.full((size, size), float(size)) for size in SIZES]
    return masks, RaggedMasks.of(masks)


def test_by_hand():
    masks = RaggedMasks.of([torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0]])])
    assert masks.values.tolist() == [1, 2, 3, 4, 5]
    assert masks.sizes.tolist() == [2, 1]
    assert masks.offsets.tolist() == [0, 4, 5]


def test_splits_into_what_it_was_made_of():
    masks, flat = ragged()
    assert all(torch.equal(a, b) for a, b in zip(flat.split(), masks, strict=True))
    assert flat.split()[0].data_ptr() == flat.values.data_ptr()


def test_takes_a_stack_of_one_size():
    stack = torch.rand(3, 4, 4)
    masks = RaggedMasks.of(stack.transpose(1, 2))
    assert masks.sizes.tolist() == [4, 4, 4]
    assert torch.equal(torch.stack(masks.split()), stack.transpose(1, 2))


def test_takes_itself():
    _, masks = ragged()
    assert RaggedMasks.of(masks) is masks


@pytest.mark.parametrize(
    "empty", [[], torch.empty(0, 28, 28), RaggedMasks.cat([])], ids=["list", "stack", "ragged"]
)
def test_empty(empty):
    masks = RaggedMasks.of(empty)
    assert (masks.values.shape, masks.sizes.shape) == ((0,), (0,))
    assert (masks.offsets.tolist(), masks.split()) == ([0], [])


@pytest.mark.parametrize("index", [[2, 0, 2], [], [1], [3, 2, 1, 0]], ids=str)
def test_selects(index):
    masks, flat = ragged()
    chosen = flat.select(torch.tensor(index, dtype=torch.int64))
    assert chosen.sizes.tolist() == [SIZES[i] for i in index]
    assert all(torch.equal(a, masks[i]) for a, i in zip(chosen.split(), index, strict=True))


def test_selects_by_mask():
    _, flat = ragged()
    assert flat.select(torch.tensor([True, False, False, True])).sizes.tolist() == [2, 1]


def test_cats():
    _, flat = ragged()
    both = RaggedMasks.cat([flat, flat.select(torch.tensor([3]))])
    assert both.sizes.tolist() == [*SIZES, 1]
    assert torch.equal(both.values[:-1], flat.values)


def test_a_buffer_may_be_longer_than_its_masks():
    masks, flat = ragged()
    longer = RaggedMasks(torch.cat([flat.values, torch.full((7,), torch.nan)]), flat.sizes)
    assert RaggedMasks.of(longer) is longer
    for part, mask in zip(longer.split(), masks, strict=True):
        assert torch.equal(part, mask)
    assert torch.equal(longer.select(torch.arange(len(SIZES))).values, flat.values)
    both = RaggedMasks.cat([longer, longer])
    assert torch.equal(both.values, torch.cat([flat.values, flat.values]))


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (torch.rand(2, 3), ValueError, r"masks \[N, S, S\], got \[2, 3\]"),
        (torch.rand(2, 3, 4), ValueError, r"square masks \[N, S, S\], got \[2, 3, 4\]"),
        ([torch.rand(3, 4)], ValueError, r"square masks \[S, S\], got \[3, 4\]"),
        (
            RaggedMasks(torch.rand(3), torch.tensor([2])),
            ValueError,
            "at least 4 masks.values for these sizes, got 3",
        ),
        (
            RaggedMasks(torch.rand(5), torch.tensor([2, -1])),
            ValueError,
            "masks.sizes of at least 0, got -1 in row 1",
        ),
        (
            RaggedMasks(torch.rand(4), torch.tensor([2.0])),
            TypeError,
            "masks.sizes of an integer dtype",
        ),
    ],
)
def test_says_what_is_wrong(masks, error, message):
    with pytest.raises(error, match=f"paste_masks: expected {message}"):
        RaggedMasks.of(masks, "paste_masks")
