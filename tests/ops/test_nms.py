import pytest
import torch

from dynamask.ops import batched_nms, batched_nms_fixed, nms
from dynamask.reference import nms as reference
from dynamask.testing import assert_op_is_registered

from .on_cpu import on_cpu

NAN, INF = float("nan"), float("inf")
PAIR = [[10.0, 10, 60, 60], [11, 10, 61, 60]]  # overlap by 49 / 51


def crowd(n, dtype=torch.float32, groups=5):
    """Boxes of which many overlap, distinct scores in no order, groups."""
    boxes = torch.rand(n, 4) * 60
    boxes[:, 2:] += boxes[:, :2] + 1
    scores = (torch.randperm(n) + 1) / (n + 1)
    return boxes.to(dtype), scores.to(dtype), torch.randint(-2, groups - 2, (n,))


def test_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 9], [0, 0, 10, 5]])
    scores = torch.tensor([0.8, 0.1, 0.9, 0.7])
    # box 2 drops box 0 (9 / 10) and box 3 (5 / 9)
    assert nms(boxes, scores, 0.5).tolist() == [2, 1]
    assert nms(boxes, scores, 0.6).tolist() == [2, 3, 1]
    assert batched_nms(boxes, scores, torch.tensor([1, 0, 0, 0]), 0.5).tolist() == [2, 0, 1]
    keep, valid = batched_nms_fixed(boxes, scores, torch.tensor([1, 0, 0, 0]), 0.5, 5)
    assert keep.tolist() == [2, 0, 1, 0, 0]
    assert valid.tolist() == [True, True, True, False, False]


def test_an_overlap_of_exactly_the_threshold_is_kept():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    assert nms(boxes, torch.tensor([1.0, 0.5]), 0.5).tolist() == [0, 1]
    # 3 / 10 in fp32 is above the 0.3 of Python
    boxes[1, 3] = 3
    assert nms(boxes, torch.tensor([1.0, 0.5]), 0.3).tolist() == [0]


def test_equal_scores_keep_the_order_of_the_input():
    boxes = torch.arange(0.0, 4000, 10).repeat_interleave(4).view(-1, 4) + torch.tensor(
        [0, 0, 5, 5]
    )
    scores = torch.full((len(boxes),), 0.5)
    scores[::3] = -0.0
    scores[1::3] = 0.0
    expected = torch.argsort(scores, descending=True, stable=True)
    assert torch.equal(nms(boxes, scores, 0.5), expected)
    assert torch.equal(batched_nms(boxes, scores, torch.arange(len(boxes)) % 7, 0.5), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 65, 150])
def test_matches_reference(n, dtype):
    boxes, scores, groups = crowd(n, dtype)
    for threshold in (0.0, 0.3, 1.0):
        assert torch.equal(nms(boxes, scores, threshold), reference.nms(boxes, scores, threshold))
        args = (boxes, scores, groups, threshold)
        assert torch.equal(batched_nms(*args), reference.batched_nms(*args))
        for got, expected in zip(
            batched_nms_fixed(*args, 20), reference.batched_nms_fixed(*args, 20)
        ):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_same_indices_as_torchvision(dtype, threshold):
    theirs = on_cpu(pytest.importorskip("torchvision").ops.nms)
    for n in (100, 1500):
        boxes, scores, groups = crowd(n, dtype)
        boxes[: n // 2] = boxes[: n // 2].round()  # exact ties of overlaps
        boxes[:10, 2:] = boxes[:10, :2]  # no area
        boxes[10:20] = boxes[10:20, [2, 3, 0, 1]]  # inside out
        boxes[20:30] = boxes[30:40]  # twice the same
        assert torch.equal(nms(boxes, scores, threshold), theirs(boxes, scores, threshold))
        kept = torch.zeros(n, dtype=torch.bool)
        for group in groups.unique():
            of_group = (groups == group).nonzero().flatten()
            kept[of_group[theirs(boxes[of_group], scores[of_group], threshold)]] = True
        order = torch.argsort(scores, descending=True, stable=True)
        assert torch.equal(batched_nms(boxes, scores, groups, threshold), order[kept[order]])


SCENES = {  # boxes that are hard to tell apart by where they begin
    "far away": lambda boxes: boxes + 1e6,
    "around zero": lambda boxes: boxes - 60,
    "tiny": lambda boxes: boxes * 1e-30,
    "one column": lambda boxes: boxes * torch.tensor([0, 1, 1, 1]),
    "one place": lambda boxes: boxes[:1].expand(len(boxes), 4),
    "inside out": lambda boxes: torch.where(torch.rand(len(boxes), 1) < 0.5, boxes, boxes.flip(1)),
    "one endless": lambda boxes: torch.cat([boxes[1:], torch.tensor([[-INF, 0, 9, 9]])]),
    "one far off": lambda boxes: torch.cat([boxes[1:], torch.tensor([[0, 0, 3e38, 9]])]),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_many_boxes_anywhere(scene, dtype, threshold):
    boxes, scores, _ = crowd(600)
    boxes = SCENES[scene](boxes.float()).to(dtype)
    assert torch.equal(nms(boxes, scores, threshold), reference.nms(boxes, scores, threshold))


@pytest.mark.parametrize("group", [0, 80, 10**4, 10**7, -(10**15), 2**63 - 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_group_numbers_may_be_anything(group, dtype):
    boxes, scores = torch.tensor(PAIR, dtype=dtype) + 1200, torch.tensor([0.9, 0.8], dtype=dtype)
    assert batched_nms(boxes, scores, torch.full((2,), group), 0.5).tolist() == [0]
    assert batched_nms(boxes, scores, torch.tensor([group, group // 2 + 1]), 0.5).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("far", "kept"),
    [([0, 0, 1e9, 1e9], [0, 2]), ([0, 0, INF, 5], [0, 2]), ([-INF, 0, INF, 5], [0, 2]),
     ([INF, INF, INF, INF], [0, 2]), ([0, 0, NAN, 5], [0]), ([NAN] * 4, [0])],
)  # fmt: skip
@pytest.mark.parametrize("group", [1, 2])
def test_one_odd_box_disturbs_no_other(far, kept, group):
    boxes = torch.tensor([*PAIR, far])
    scores, groups = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, group])
    assert batched_nms(boxes, scores, groups, 0.5).tolist() == kept
    scores[2] = 1
    assert batched_nms(boxes, scores, groups, 0.5).tolist() == sorted(kept, reverse=True)


def test_nan_scores_are_never_kept():
    boxes, scores, groups = crowd(100)
    scores[::5] = NAN
    keep = nms(boxes, scores, 0.4)
    assert not scores[keep].isnan().any()
    finite = (~scores.isnan()).nonzero().flatten()
    assert torch.equal(keep, finite[nms(boxes[finite], scores[finite], 0.4)])
    assert not scores[batched_nms(boxes, scores, groups, 0.4)].isnan().any()
    pair = torch.tensor(PAIR)
    assert nms(pair, torch.tensor([NAN, NAN]), 0.4).numel() == 0
    assert nms(pair, torch.tensor([-INF, INF]), 1.0).tolist() == [1, 0]


def test_fixed_is_a_prefix():
    boxes, scores, groups = crowd(300)
    all_kept = batched_nms(boxes, scores, groups, 0.3)
    for max_out in (0, 1, 17, len(all_kept), 300, 500):
        keep, valid = batched_nms_fixed(boxes, scores, groups, 0.3, max_out)
        assert keep.shape == valid.shape == (max_out,)
        assert torch.equal(keep[valid], all_kept[:max_out])
        assert not keep[~valid].any()
        assert valid.sum() == min(max_out, len(all_kept))


def test_fixed_of_nothing():
    keep, valid = batched_nms_fixed(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.5, 3
    )
    assert keep.tolist() == [0, 0, 0]
    assert not valid.any()


def test_any_strides_and_integers():
    boxes, scores, groups = crowd(60)
    expected = batched_nms(boxes, scores, groups, 0.4)
    wide = torch.cat([boxes, boxes], 1)[:, :4]
    columns = boxes.t().contiguous().t()
    for b in (wide, columns):
        assert torch.equal(batched_nms(b, scores, groups.to(torch.int8), 0.4), expected)
    twice = torch.stack([scores, scores], 1)[:, 0]
    assert torch.equal(batched_nms(boxes, twice, groups.int(), 0.4), expected)


def test_memory_does_not_grow_with_the_square():
    boxes, scores, _ = crowd(100_000)
    assert len(nms(boxes, scores, 0.1)) < 1000


@pytest.mark.cpu_only
def test_same_for_any_number_of_threads():
    threads, args = torch.get_num_threads(), crowd(9000, groups=300)
    results = []
    for n in (1, 2):
        torch.set_num_threads(n)
        results.append(batched_nms(*args, 0.3))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_registration():
    boxes, scores, groups = crowd(30)
    ops = torch.ops.dynamask
    assert_op_is_registered(ops.nms.default, (boxes, scores, 0.5))
    assert_op_is_registered(ops.batched_nms.default, (boxes, scores, groups, 0.5))
    assert_op_is_registered(ops.batched_nms_fixed.default, (boxes, scores, groups, 0.5, 10))


@pytest.mark.parametrize("op", [batched_nms, batched_nms_fixed])
@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_compiles_without_a_graph_break(op):
    compiled = torch.compile(op, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (30, 50):
        args = (*crowd(n), 0.5, 10)[: 5 if op is batched_nms_fixed else 4]
        for got, expected in zip(compiled(*args), op(*args)):
            assert torch.equal(got, expected)


B, S, G = torch.rand(3, 4), torch.rand(3), torch.tensor([0, 0, 1])


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((B[:, :3], S, G, 0.5), ValueError, r"expected boxes \[N, 4\], got \[3, 3\]"),
        ((B.long(), S, G, 0.5), TypeError, "expected boxes of a floating dtype, got torch.int64"),
        ((B, S[:, None], G, 0.5), ValueError, r"expected scores \[N\], got \[3, 1\]"),
        ((B, S.int(), G, 0.5), TypeError, "expected scores of a floating dtype, got torch.int32"),
        ((B, S[:2], G, 0.5), ValueError, "expected scores 3, got 2"),
        ((B, S, G[:2], 0.5), ValueError, "expected idxs 3, got 2"),
        ((B, S, G.float(), 0.5), TypeError, "expected idxs of an integer dtype, got torch.float32"),
        ((B, S, G, NAN), ValueError, r"expected iou_threshold in \[0, 1\], got nan"),
        ((B, S, G, 1.5), ValueError, r"expected iou_threshold in \[0, 1\], got 1.5"),
        ((B, S, G, -0.1), ValueError, r"expected iou_threshold in \[0, 1\], got -0.1"),
    ],
)
def test_says_what_is_wrong(args, error, message):
    with pytest.raises(error, match=f"^batched_nms: {message}"):
        batched_nms(*args)
    with pytest.raises(error, match=f"^batched_nms_fixed: {message}"):
        batched_nms_fixed(*args, 5)
    if "idxs" not in message:
        with pytest.raises(error, match=f"^nms: {message}"):
            nms(args[0], args[1], args[3])


@pytest.mark.cpu_only
def test_says_that_max_out_is_wrong():
    with pytest.raises(ValueError, match="batched_nms_fixed: expected max_out >= 0, got -1"):
        batched_nms_fixed(B, S, G, 0.5, -1)
