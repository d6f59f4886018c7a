import pytest
import torch

from dynamask.ops import edge_targets
from dynamask.reference.edge_targets import edge_targets as reference
from dynamask.testing import assert_op_is_registered

SHAPES = [(2, 14, 14), (2, 28, 28), (1, 56, 56), (1, 112, 112), (1, 1, 1), (2, 7, 7), (1, 65, 131)]
EMPTY = [(0, 14, 14), (2, 0, 0), (2, 0, 3), (2, 3, 0)]
DTYPES = [torch.uint8, torch.bool, torch.float32, torch.float64, torch.float16, torch.bfloat16]


def blobs(shape):
    noise = torch.nn.functional.avg_pool2d(torch.rand(shape), 3, stride=1, padding=1)
    return noise > 0.5


def test_by_hand():
    mask = torch.tensor(
        [
            [0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 1, 1],
            [0, 1, 1, 1, 1, 1],
            [0, 1, 1, 1, 1, 1],
            [0, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 0],
        ],
        dtype=torch.uint8,
    )
    assert edge_targets(mask[None])[0].tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 1],
        [0, 1, 0, 0, 0, 1],  # the object is cut by the right border of the crop
        [0, 1, 0, 0, 0, 1],
        [0, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0],
    ]
    assert edge_targets(mask[None], union=True)[0].tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 1],
        [0, 1, 0, 0, 0, 1],
        [0, 1, 0, 0, 0, 1],
        [0, 1, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],  # the stride-2 response spills 1 pixel out
    ]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("union", [False, True])
@pytest.mark.parametrize("kind", ["blobs", "noise", "full"])
def test_matches_reference(shape, union, kind):
    masks = {"blobs": blobs, "noise": lambda s: torch.rand(s) > 0.1, "full": torch.ones}[kind](
        shape
    )
    for dtype in DTYPES:
        got = edge_targets(masks.to(dtype), union)
        assert got.dtype == dtype
        assert torch.equal(got, reference(masks.to(dtype), union))


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty(shape):
    assert edge_targets(torch.zeros(shape), union=True).shape == shape


def test_what_is_not_zero_is_foreground():
    masks = torch.tensor([[[-0.0, 0.0, 0.0], [0.0, 1e-30, 0.0], [0.0, 0.0, 0.0]]])
    assert edge_targets(masks).nonzero().tolist() == [[0, 1, 1]]
    assert torch.equal(
        edge_targets(torch.full((1, 4, 4), 255, dtype=torch.uint8)),
        edge_targets(torch.ones(1, 4, 4, dtype=torch.uint8)),
    )


def test_any_strides():
    masks = blobs((3, 40, 40))
    for view in (masks[::2, ::2, 1::2], masks.transpose(1, 2), masks[:1].expand(4, 40, 40)):
        assert torch.equal(edge_targets(view), reference(view))


def test_threads_give_the_same_bits():
    masks = blobs((40, 56, 56))
    together = edge_targets(masks)
    one_by_one = torch.cat([edge_targets(mask[None]) for mask in masks])
    assert torch.equal(together, one_by_one)


def test_has_no_gradient():
    assert not edge_targets(torch.ones(1, 4, 4, requires_grad=True)).requires_grad


def test_registration():
    for union in (False, True):
        assert_op_is_registered(torch.ops.dynamask.edge_targets.default, (blobs((2, 9, 9)), union))


def test_compiles_without_a_graph_break():
    compiled = torch.compile(edge_targets, fullgraph=True, dynamic=True, backend="aot_eager")
    for side in (5, 8):
        masks = blobs((2, side, side))
        assert torch.equal(compiled(masks, True), edge_targets(masks, True))


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (torch.zeros(4, 4), ValueError, r"expected masks \[N, S, S\], got \[4, 4\]"),
        (
            torch.zeros(1, 4, 4).int(),
            TypeError,
            "expected masks of uint8, bool or float, got torch",
        ),
    ],
)
def test_says_what_is_wrong(masks, error, message):
    with pytest.raises(error, match=f"edge_targets: {message}"):
        edge_targets(masks)
