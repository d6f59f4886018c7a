import pytest
import torch

from dynamask.reference.bucket_rois import bucket_rois
from dynamask.reference.grouped_mask_head import grouped_masks
from dynamask.testing import assert_as_accurate

from .conftest import SanitizerError, split

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SIZES = (4, 8, 13)
CLASSES = (5, 5, 1)
FEW = {"kExitThreads = 128": "kExitThreads = 64"}
MIX = [0, 2, 1, 0, 1]


def inputs(states, dtype, channels):
    state = torch.tensor(states)
    order, _, _, offsets, _, starts = bucket_rois(state, len(SIZES), SIZES)
    features = [torch.randn(len(states), c, s, s).to(dtype) for c, s in zip(channels, SIZES)]
    for k, f in enumerate(features):
        f[int(offsets[len(SIZES) - k]) :] = torch.nan
    weights = [torch.randn(k, c).to(dtype) for k, c in zip(CLASSES, channels)]
    biases = [torch.randn(k).to(dtype) for k in CLASSES]
    return features, weights, biases, torch.randint(0, 5, (len(states),)), state, order, starts


def numbers(x, rows=False):
    """A tensor as the driver reads it: 16 bits as integers, channels innermost for rows."""
    x = x.permute(0, 2, 3, 1) if rows else x
    return x.contiguous().view(torch.int16) if x.element_size() == 2 else x.contiguous()


def run(driver, args, rows):
    features, weights, biases, labels, state, order, starts = args
    dtype = features[0].dtype
    kind = DTYPES.index(dtype) if weights[0].dtype == dtype else len(DTYPES)
    shapes = [(f.shape[1], f.shape[2] ** 2, len(w)) for f, w in zip(features, weights)]
    given = [kind, int(rows), labels, state, order, starts, torch.tensor(shapes)]
    for f, w, b in zip(features, weights, biases):
        given += [numbers(f, rows), numbers(w), numbers(b)]
    room = torch.zeros(len(labels) * SIZES[-1] ** 2, dtype=dtype)
    (values,) = split(driver.run(*given), [numbers(room)])
    return values.view(dtype)


def is_untouched(values):
    return bool(values.isnan().all())


def wide(args):
    features, weights, biases, *others = args
    return (*([x.double() for x in group] for group in (features, weights, biases)), *others)


@pytest.mark.parametrize(
    ("sanitizer", "dtype"), [("threads", torch.float32), *(("memory", dtype) for dtype in DTYPES)]
)
def test_matches_reference(hostcuda, sanitizer, dtype):
    driver = hostcuda("grouped_mask_head", sanitizer, FEW)
    for channels, rows in (((64, 32, 16), True), ((5, 3, 1), True), ((5, 3, 2), False)):
        args = inputs(MIX, dtype, channels)
        *given, starts = args
        *widened, _ = wide(args)
        values = run(driver, args, rows)
        exact, plain = grouped_masks(*widened), grouped_masks(*given)
        for n, (truth, same) in enumerate(zip(exact, plain, strict=True)):
            mask = values[int(starts[n]) : int(starts[n + 1])].view(truth.shape)
            assert_as_accurate(mask, truth, same)
        assert is_untouched(values[int(starts[-1]) :])


def test_weights_of_another_dtype(hostcuda):
    driver = hostcuda("grouped_mask_head", "memory", FEW)
    features, weights, biases, *others = inputs(MIX, torch.bfloat16, (64, 32, 16))
    args = (features, [w.float() for w in weights], [b.float() for b in biases], *others)
    values = run(driver, args, rows=True)
    same = run(driver, (features, weights, biases, *others), rows=True)
    assert torch.equal(numbers(values), numbers(same))


def test_nothing_is_read_or_written_for_what_is_out_of_range(hostcuda):
    driver = hostcuda("grouped_mask_head", "memory", FEW)
    features, weights, biases, _, _, order, starts = inputs(MIX, torch.float32, (64, 32, 16))
    labels, state = torch.tensor([5, 7, -1, 0, 1 << 40]), torch.tensor([0, 2, 1, 3, -1])
    for rows in (True, False):
        args = (features, weights, biases, labels, state, order, starts)
        values = run(driver, args, rows)
        masks = [values[a:b] for a, b in zip(starts.tolist(), starts.tolist()[1:])]
        assert masks[1].isfinite().all()
        assert masks[1].any()  # one row for all labels
        assert not torch.cat([masks[0], masks[2]]).any()
        assert is_untouched(torch.cat(masks[3:]))
    wrong = torch.tensor([0, -5, 1 << 40, 1, 9])
    run(driver, (features, weights, biases, labels, state, wrong, starts), rows=True)
    far = starts + 5 * SIZES[-1] ** 2
    run(driver, (features, weights, biases, labels, state, order, far), rows=True)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("if (pixel >= end) continue;", ""),
        ("if (first + lane < end)", "if (true)"),
        ("if (mask.exit < 0) return;", "if (mask.exit < -1) return;"),
    ],
    ids=["reads past the pixels", "writes past the pixels", "a state out of range"],
)
def test_planted_faults_are_caught(hostcuda, right, wrong):
    driver = hostcuda("grouped_mask_head", "memory", {**FEW, right: wrong})
    features, weights, biases, labels, state, order, starts = inputs(
        [2, 2, 2], torch.float32, (64, 32, 16)
    )
    if "exit" in right:
        state = torch.tensor([2, -1, 2])
    with pytest.raises(SanitizerError, match=r"heap-buffer-overflow|out of bounds|SEGV"):
        run(driver, (features, weights, biases, labels, state, order, starts), rows=True)
