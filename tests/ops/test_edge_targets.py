import pytest
import torch

from dynamask.ops import block_targets, edge_targets
from dynamask.reference.edge_targets import block_targets as block_reference
from dynamask.reference.edge_targets import edge_targets as reference
from dynamask.testing import assert_op_is_registered

SHAPES = [
    *((2, 14, 14), (2, 28, 28), (1, 56, 56), (1, 112, 112), (1, 65, 131), (17, 14, 14)),
    *(
        (1, 1, 1),
        (2, 7, 7),
        (100, 1, 1),
        (40, 2, 2),
        (300, 1, 3),
        (9, 3, 1),
        (1, 200, 1),
        (2, 2, 90),
    ),
    *((5, 3, 3), (1, 3, 40), (3, 5, 13)),
]
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


def test_blocks_by_hand():
    mask = torch.zeros(7, 9, dtype=torch.uint8)
    mask[1:6, 2:] = 1
    assert block_targets(mask[None], width=1)[0].tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 1, 1, 2, 2, 2, 2, 2, 1],  # the object is cut by the right border of the crop
        [0, 1, 1, 2, 2, 2, 2, 2, 1],
        [0, 1, 1, 2, 2, 2, 2, 2, 1],
        [0, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
    corner = block_targets(mask[None], width=2)[0, :3, :5]
    assert corner.tolist() == [
        [0, 1, 1, 1, 1],  # of the 25 around the site above the corner's left, 4 are foreground
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("kind", ["blobs", "noise", "full"])
def test_blocks_match_reference(shape, width, kind):
    masks = {"blobs": blobs, "noise": lambda s: torch.rand(s) > 0.1, "full": torch.ones}[kind](
        shape
    )
    for dtype in DTYPES:
        got = block_targets(masks.to(dtype), width)
        assert got.dtype == torch.uint8
        assert torch.equal(got, block_reference(masks.to(dtype), width))


@pytest.mark.parametrize("union", [False, True])
def test_a_list_is_one_call(union):
    masks = [blobs((3, side, side)).byte() for side in (14, 28, 56)]
    masks.append(blobs((2, 5, 9)).float())
    for got, mask in zip(edge_targets(masks, union), masks, strict=True):
        assert torch.equal(got, reference(mask, union))
    for got, mask in zip(block_targets(masks, 3), masks, strict=True):
        assert torch.equal(got, block_reference(mask, 3))
    assert edge_targets([]) == block_targets([]) == []


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty(shape):
    assert edge_targets(torch.zeros(shape), union=True).shape == shape
    assert block_targets(torch.zeros(shape)).shape == shape


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
        assert torch.equal(block_targets(view), block_reference(view))


@pytest.mark.parametrize("targets", [edge_targets, lambda m: edge_targets(m, True), block_targets])
def test_threads_give_the_same_bits(targets):
    masks = blobs((40, 56, 56))
    one_by_one = torch.cat([targets(mask[None]) for mask in masks])
    assert torch.equal(targets(masks), one_by_one)


def test_has_no_gradient():
    masks = torch.ones(1, 4, 4, requires_grad=True)
    assert not edge_targets(masks).requires_grad
    assert not block_targets(masks).requires_grad


def test_registration():
    for union in (False, True):
        args = ([blobs((2, 9, 9)), torch.rand(1, 4, 4)], union)
        assert_op_is_registered(torch.ops.dynamask.edge_targets.default, args)
    args = ([blobs((2, 9, 9)), torch.rand(1, 4, 4)], 2)
    assert_op_is_registered(torch.ops.dynamask.edge_targets_blocks.default, args)


@pytest.mark.parametrize("targets", [edge_targets, block_targets])
def test_compiles_without_a_graph_break(targets):
    compiled = torch.compile(targets, fullgraph=True, dynamic=True, backend="aot_eager")
    for side in (5, 8):
        masks = blobs((2, side, side))
        assert torch.equal(compiled(masks), targets(masks))
        for got, expected in zip(compiled([masks, masks[:1]]), targets([masks, masks[:1]])):
            assert torch.equal(got, expected)


@pytest.mark.cpu_only
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
    for op in (edge_targets, block_targets):
        for given in (masks, [masks]):
            with pytest.raises(error, match=f"{op.__name__}: {message}"):
                op(given)


@pytest.mark.cpu_only
def test_refuses_a_band_too_wide():
    with pytest.raises(ValueError, match=r"block_targets: expected width in \[1, 3\], got 4"):
        block_targets(torch.ones(1, 4, 4), 4)
