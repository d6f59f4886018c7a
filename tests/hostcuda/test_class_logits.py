import pytest
import torch

from dynamask.reference.class_logits import class_logits as reference
from dynamask.testing import assert_as_accurate

from .conftest import SANITIZERS, SanitizerError, split

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FEW = {"kLogitWarps = 4": "kLogitWarps = 2", "kLogitPixels = 32": "kLogitPixels = 4"}


def bits(x):
    """A tensor as the driver reads and writes it: 16 bits as integers."""
    return x.view(torch.int16) if x.element_size() == 2 else x


def run(driver, features, weight, bias, labels, rows):
    n, channels, height, width = features.shape
    wide = torch.float64 if features.dtype == torch.float64 else torch.float32
    lying = features.permute(0, 2, 3, 1) if rows else features
    data = driver.run(
        *(DTYPES.index(features.dtype), int(rows), bits(lying.contiguous())),
        *(weight.to(wide), torch.empty(0) if bias is None else bias.to(wide), labels),
        *(n, channels, height, width, weight.shape[0]),
    )
    out = torch.zeros(n, height, width, dtype=features.dtype)
    return split(data, [bits(out)])[0].view(features.dtype)


def inputs(n, channels, height, width, classes, dtype=torch.float32):
    features = torch.randn(n, channels, height, width).to(dtype)
    weight, bias = torch.randn(classes, channels).to(dtype), torch.randn(classes).to(dtype)
    return features, weight, bias, torch.randint(0, classes, (n,))


@pytest.mark.parametrize("rows", [True, False], ids=["channels_last", "NCHW"])
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_matches_reference(hostcuda, sanitizer, rows):
    driver = hostcuda("class_logits", sanitizer, FEW)
    for dtype in DTYPES if sanitizer == "memory" else DTYPES[:1]:
        for shape in ((2, 72, 3, 5, 4), (2, 33, 3, 7, 2), (1, 3, 1, 1, 1)):
            features, weight, bias, labels = inputs(*shape, dtype)
            for b in (bias, None):
                got = run(driver, features, weight, b, labels, rows)
                exact = reference(
                    features.double(), weight.double(), None if b is None else b.double(), labels
                )
                assert_as_accurate(got, exact, reference(features, weight, b, labels))


@pytest.mark.parametrize("rows", [True, False], ids=["channels_last", "NCHW"])
def test_labels_out_of_range_give_zeros(hostcuda, rows):
    driver = hostcuda("class_logits", "memory", FEW)
    features, weight, bias, _ = inputs(3, 8, 3, 3, 5)
    labels = torch.tensor([1 << 62, 2, -1])
    got = run(driver, features, weight, bias, labels, rows)
    assert not got[::2].any()
    assert got[1].any()


def test_lanes_that_meet_in_different_places_are_caught(hostcuda):
    shuffle = "sum += __shfl_down_sync(~0u, sum, by);"
    apart = f"if (lane < 16) {shuffle}\n else {shuffle}"
    driver = hostcuda("class_logits", "memory", {**FEW, shuffle: apart})
    features, weight, bias, labels = inputs(1, 8, 2, 2, 3)
    with pytest.raises(SanitizerError, match="different places"):
        run(driver, features, weight, bias, labels, rows=True)


def test_nothing_to_do(hostcuda):
    driver = hostcuda("class_logits", "memory", FEW)
    assert run(driver, *inputs(0, 8, 3, 3, 5), rows=True).shape == (0, 3, 3)
    assert run(driver, *inputs(2, 8, 0, 3, 5), rows=False).shape == (2, 0, 3)
    features, weight, bias, labels = inputs(2, 0, 2, 2, 5)
    got = run(driver, features, weight, bias, labels, rows=True)
    assert torch.equal(got, bias[labels][:, None, None].expand(2, 2, 2))


@pytest.mark.parametrize(
    ("right", "wrong", "rows", "label"),
    [
        ("c < channels; c += 32", "c <= channels; c += 32", True, 2),
        ("c < channels; ++c", "c <= channels; ++c", False, 2),
        ("k >= 0 && k < shape.classes", "k >= 0", True, 3),
        ("p < pixels;", "p <= pixels;", True, 2),
    ],
    ids=["a pack too many", "a channel too many", "any class", "a pixel too many"],
)
def test_planted_faults_are_caught(hostcuda, right, wrong, rows, label):
    driver = hostcuda("class_logits", "memory", {**FEW, right: wrong})
    features, weight, bias, _ = inputs(1, 8, 4, 4, 3)
    with pytest.raises(SanitizerError, match="overflow"):
        run(driver, features, weight, bias, torch.tensor([label]), rows)
