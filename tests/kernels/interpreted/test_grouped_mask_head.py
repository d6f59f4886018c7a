import itertools

import pytest
import torch

from dynamask.ops import grouped_mask_head
from dynamask.reference.bucket_rois import bucket_rois
from dynamask.reference.grouped_mask_head import grouped_mask_head as reference
from dynamask.reference.grouped_mask_head import grouped_masks
from dynamask.testing import assert_as_accurate

from ...ops import grouped_inputs as whole
from ..in_triton import InTriton

triton = pytest.importorskip("triton")
kernels = pytest.importorskip("dynamask.kernels.grouped_mask_head")

SIZES = (4, 8, 13)
CLASSES = (5, 5, 1)
CHANNELS = (64, 32, 16)
MIX = [0, 2, 1, 0, 1]


def inputs(states=MIX, dtype=torch.float32, channels=CHANNELS, layout=torch.channels_last):
    state = torch.tensor(states, dtype=torch.int64)
    order, _, _, offsets, _, starts = bucket_rois(state, len(SIZES), SIZES)
    features = [torch.randn(len(states), c, s, s).to(dtype) for c, s in zip(channels, SIZES)]
    for k, f in enumerate(features):
        f[int(offsets[len(SIZES) - k]) :] = torch.nan
    features = [f.contiguous(memory_format=layout) for f in features]
    weights = [torch.randn(k, c).to(dtype) for k, c in zip(CLASSES, channels)]
    biases = [torch.randn(k).to(dtype) for k in CLASSES]
    return features, weights, biases, torch.randint(0, 5, state.shape), state, order, starts


def masks_of(values, starts):
    starts = starts.tolist()
    return [values[a:b] for a, b in itertools.pairwise(starts)]


@pytest.mark.parametrize("channels", [CHANNELS, (5, 300, 1)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", kernels.DTYPES, ids=str)
def test_matches_reference(dtype, layout, channels):
    *args, starts = inputs(dtype=dtype, channels=channels, layout=layout)
    got = masks_of(kernels.grouped_mask_head(*args, starts), starts)
    doubled = ([x.double() for x in group] for group in args[:3])
    exact, plain = grouped_masks(*doubled, *args[3:]), grouped_masks(*args)
    for mask, truth, same in zip(got, exact, plain, strict=True):
        assert_as_accurate(mask.view(truth.shape), truth, same)


def test_several_tiles_of_one_program(monkeypatch):
    *args, starts = inputs()
    expected = kernels.grouped_mask_head(*args, starts)
    monkeypatch.setattr(kernels, "PROGRAMS_PER_ROI", 2)
    monkeypatch.setattr(kernels, "NUMBERS", 1024)
    got = kernels.grouped_mask_head(*args, starts)
    end = int(starts[-1])
    torch.testing.assert_close(got[:end], expected[:end])


def test_weights_of_another_dtype():
    features, weights, biases, *others = inputs(dtype=torch.bfloat16)
    wide = [w.float() for w in weights], [b.float() for b in biases]
    end = int(others[-1][-1])
    expected = kernels.grouped_mask_head(features, weights, biases, *others)[:end]
    assert torch.equal(kernels.grouped_mask_head(features, *wide, *others)[:end], expected)


def test_no_rois():
    assert kernels.grouped_mask_head(*inputs([])).shape == (0,)


def test_nothing_is_read_or_written_for_what_is_out_of_range():
    *args, _, _, order, starts = inputs()
    labels, state = torch.tensor([5, 7, -1, 0, 1 << 40]), torch.tensor([0, 2, 1, 3, -1])
    masks = masks_of(kernels.grouped_mask_head(*args, labels, state, order, starts), starts)
    assert masks[1].any()  # one row for all labels
    assert not torch.cat([masks[0], masks[2]]).any()
    assert torch.cat([masks[3], masks[4]]).isnan().all()  # as they were
    wrong, far = torch.tensor([0, -5, 1 << 40, 1, 9]), starts + 5 * SIZES[-1] ** 2
    kernels.grouped_mask_head(*args, labels, state, wrong, starts)
    assert kernels.grouped_mask_head(*args, labels, state, order, far).isnan().all()
    assert kernels.grouped_mask_head(*args, labels, state, order, -1 - starts).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_stages_and_exits_together(dtype):
    """The public function with every operator in Triton; rows that no RoI gets to are NaN."""
    args = whole.inputs([0, 2, 1], dtype, channels=32)
    with InTriton():
        masks = grouped_mask_head(*args)
    exact, sizes = reference(*whole.double(args))
    plain, _ = reference(*args)
    assert torch.equal(masks.sizes, sizes)
    assert_as_accurate(masks.values, exact, plain)
