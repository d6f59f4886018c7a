import pytest
import torch

from dynamask.ops import RaggedMasks, bucket_rois, grouped_mask_head
from dynamask.reference.grouped_mask_head import grouped_mask_head as reference
from dynamask.reference.grouped_mask_head import grouped_masks
from dynamask.testing import assert_as_accurate, assert_op_is_registered

from .grouped_inputs import CLASSES, MIX, SIZES, double, inputs


def exit_inputs(states, dtype, layout, channels=8):
    """What the kernel takes: features of every size, sorted, NaN where no RoI gets."""
    state = torch.tensor(states, dtype=torch.int64)
    order, _, _, offsets, _, starts = bucket_rois(state, len(SIZES), SIZES)
    features = []
    for k, size in enumerate(SIZES):
        f = torch.randn(len(states), channels >> k, size, size).to(dtype)
        f[int(offsets[len(SIZES) - k]) :] = torch.nan
        features.append(f.contiguous(memory_format=layout))
    weights = [torch.randn(r, channels >> k).to(dtype) for k, r in enumerate((CLASSES, 1, CLASSES))]
    biases = [torch.randn(len(w)).to(dtype) for w in weights]
    labels = torch.randint(0, CLASSES, state.shape)
    return features, weights, biases, labels, state, order, starts


def values_of(masks):
    """All masks, without what stands after the last one."""
    return masks.values[: int(masks.offsets[-1])]


def assert_masks_close(got, expected, **tolerance):
    values, sizes = expected
    assert torch.equal(got.sizes, sizes)
    torch.testing.assert_close(values_of(got), values, **tolerance)


def test_by_hand():
    x = torch.tensor([[[[1.0]], [[2.0]]], [[[3.0]], [[4.0]]]])
    exits = [(torch.tensor([[1.0, 10.0], [-1.0, 0.0]]), torch.tensor([0.5, 0.0]))]
    zeros = torch.zeros(2, dtype=torch.int64)
    masks = grouped_mask_head(x, [], torch.zeros(2, 5), torch.tensor([1, 0]), zeros, [], [], exits)
    assert masks.values.tolist() == [-1.0, 43.5]
    assert masks.sizes.tolist() == [1, 1]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_masks_as_accurate_as_class_by_class(dtype, layout):
    args = exit_inputs(MIX, dtype, layout)
    features, weights, biases, labels, state, order, _ = args
    got = RaggedMasks(
        torch.ops.dynamask.grouped_mask_head(*args), torch.tensor(SIZES)[state]
    ).split()
    wide = ([x.double() for x in group] for group in (features, weights, biases))
    exact = grouped_masks(*wide, labels, state, order)
    plain = grouped_masks(features, weights, biases, labels, state, order)
    for actual, truth, same in zip(got, exact, plain, strict=True):
        assert_as_accurate(actual, truth, same)


@pytest.mark.parametrize("states", [MIX, [0, 0], [1, 1, 1], [2], [2, 0], []], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_running_everything_and_picking(states, layout):
    args = inputs(states, layout=layout)
    assert_masks_close(grouped_mask_head(*args), reference(*args), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    args = inputs(dtype=dtype)
    got = grouped_mask_head(*args)
    exact, _ = reference(*double(args))
    plain, _ = reference(*args)
    assert_as_accurate(values_of(got), exact, plain)


def test_rois_in_another_order_give_the_same_masks():
    x, levels, rois, labels, state, *others = inputs()
    masks = grouped_mask_head(x, levels, rois, labels, state, *others).split()
    turn = torch.randperm(len(state))
    turned = grouped_mask_head(x[turn], levels, rois[turn], labels[turn], state[turn], *others)
    for n, mask in zip(turn.tolist(), turned.split()):
        torch.testing.assert_close(mask, masks[n], rtol=1e-5, atol=1e-5)


def test_levels_are_made_only_where_somebody_gets():
    x, levels, rois, labels, state, *others = inputs([1, 0, 1])
    made = []

    def maker(k):
        def make():
            made.append(k)
            return levels[k]

        return make

    got = grouped_mask_head(x, [maker(0), maker(1)], rois, labels, state, *others)
    plain = grouped_mask_head(x, levels, rois, labels, state, *others)
    assert torch.equal(values_of(got), values_of(plain))
    if x.device.type == "cpu":
        assert made == [0]


def test_without_bias_and_with_weights_of_convolutions():
    *args, exits = inputs()
    zero = [(w, torch.zeros_like(b)) for w, b in exits]
    none = [(w[:, :, None, None], None) for w, _ in exits]
    got, expected = (values_of(grouped_mask_head(*args, e)) for e in (none, zero))
    assert torch.equal(got, expected)


def test_labels_and_states_out_of_range():
    *args, order, starts = exit_inputs([0, 1, 2], torch.float32, torch.channels_last)
    labels, state = torch.tensor([CLASSES, CLASSES, -1]), torch.tensor([0, 1, 2])
    masks = RaggedMasks(
        torch.ops.dynamask.grouped_mask_head(*args[:3], labels, state, order, starts),
        torch.tensor(SIZES),
    ).split()
    assert not masks[0].any()
    assert masks[1].any()  # one row for all labels
    assert not masks[2].any()
    torch.ops.dynamask.grouped_mask_head(
        *args[:3], labels, torch.tensor([-1, 3, 1 << 40]), order, starts
    )


def test_gradients_are_those_of_running_everything_and_picking():
    *args, exits = inputs(dtype=torch.float64)
    x, levels, stages = args[0], args[1], args[-1]
    leaves = [x, *levels, *(w for stage in stages for w in stage), *(t for e in exits for t in e)]
    for leaf in leaves:
        leaf.requires_grad_()
    masks = grouped_mask_head(*args, exits)
    values, _ = reference(*args, exits)
    grad = torch.randn_like(values)
    got = torch.autograd.grad(values_of(masks), leaves, grad)
    expected = torch.autograd.grad(values, leaves, grad)
    torch.testing.assert_close(got, expected)


def test_the_kernel_alone_has_no_gradient():
    features, *others = exit_inputs([0], torch.float32, torch.channels_last)
    features = [f.requires_grad_() for f in features]
    out = torch.ops.dynamask.grouped_mask_head(features, *others)
    with pytest.raises(NotImplementedError, match="grouped_mask_head: the kernel has no gradient"):
        out.sum().backward()


def test_registration():
    # only the largest masks: what stands after the last one has no meaning
    args = exit_inputs([2, 2], torch.float32, torch.channels_last)
    assert_op_is_registered(torch.ops.dynamask.grouped_mask_head.default, args)


def test_compiles_without_a_graph_break():
    compiled = torch.compile(grouped_mask_head, fullgraph=True, backend="aot_eager")
    for states in (MIX, [1, 0]):
        args = inputs(states)
        got, expected = compiled(*args), grouped_mask_head(*args)
        assert len(got.values) == len(states) * SIZES[-1] ** 2
        assert_masks_close(got, (values_of(expected), expected.sizes), rtol=1e-4, atol=1e-4)


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("place", "wrong", "error", "message"),
    [
        (0, torch.rand(7, 8, 3, 4), ValueError, "expected width of x 3, got 4"),
        (2, torch.rand(6, 5), ValueError, "expected rois 7, got 6"),
        (3, torch.full((7,), CLASSES), ValueError, r"expected labels in \[0, 4\), got 4 in row 0"),
        (3, torch.zeros(7), TypeError, "expected labels of an integer dtype"),
        (4, torch.full((7,), 3), ValueError, r"expected state in \[0, 3\), got 3 in row 0"),
        (1, [], ValueError, "expected levels 2, got 0"),
        (7, [], ValueError, "expected exits 3, got 0"),
    ],
)
def test_says_what_is_wrong(place, wrong, error, message):
    args = list(inputs())
    args[place] = wrong
    with pytest.raises(error, match=f"grouped_mask_head: {message}"):
        grouped_mask_head(*args)


def test_says_which_exit_is_wrong():
    *args, exits = inputs()
    weight, bias = exits[1]
    for wrong, message in (
        ((weight[:, 1:], bias), "channels in the weight of exit 1 4, got 3"),
        ((weight, bias[1:]), "values in the bias of exit 1 4, got 3"),
    ):
        with pytest.raises(ValueError, match=f"grouped_mask_head: expected {message}"):
            grouped_mask_head(*args, [exits[0], wrong, exits[2]])
