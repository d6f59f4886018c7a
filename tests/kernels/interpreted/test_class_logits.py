import pytest
import torch

from dynamask.reference.class_logits import class_logits as reference
from dynamask.testing import assert_as_accurate

triton = pytest.importorskip("triton")
kernels = pytest.importorskip("dynamask.kernels.class_logits")

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def inputs(dtype, n=3, channels=37, height=9, width=16, classes=5):
    features = torch.randn(n, channels, height, width).to(dtype)
    weight, bias = torch.randn(classes, channels).to(dtype), torch.randn(classes).to(dtype)
    return features, weight, bias, torch.randint(0, classes, (n,))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_reference(dtype, layout):
    features, weight, bias, labels = inputs(dtype)
    features = features.contiguous(memory_format=layout)
    for b in (bias, None):
        exact = reference(
            features.double(), weight.double(), None if b is None else b.double(), labels
        )
        got = kernels.class_logits(features, weight, b, labels)
        assert_as_accurate(got, exact, reference(features, weight, b, labels))


def test_any_strides():
    features, *others = inputs(torch.float32)
    turned = features.transpose(2, 3)
    got = kernels.class_logits(turned, *others)
    torch.testing.assert_close(got, reference(turned, *others))


def test_no_rois_no_pixels():
    features, weight, bias, labels = inputs(torch.float32)
    assert kernels.class_logits(features[:0], weight, bias, labels[:0]).shape == (0, 9, 16)
    assert kernels.class_logits(features[:, :, :0], weight, bias, labels).shape == (3, 0, 16)


def test_a_label_out_of_range_gives_zeros():
    features, weight, bias, _ = inputs(torch.float32)
    got = kernels.class_logits(features, weight, bias, torch.tensor([1, 5, -1]))
    assert got[0].any()
    assert not got[1:].any()
