import pytest
import torch

from dynamask.reference.mask_edge_loss import mask_edge_loss as reference
from dynamask.testing import assert_as_accurate

from .conftest import SANITIZERS, SanitizerError, split

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FEW_THREADS = {"kLossThreads = 512": "kLossThreads = 64"}  # each is one of the system here


def bits(x):
    """A tensor as the driver reads it: 16 bits as integers."""
    return x.view(torch.int16) if x.element_size() == 2 else x


def run(driver, logits, targets, labels, grad):
    """Losses, errors and gradient; the logits [N, K, H, W] may lie in any order."""
    n, k, h, w = logits.shape
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    is_bytes = targets.dtype == torch.uint8
    memory = torch.as_strided(logits, (logits.untyped_storage().nbytes() // logits.itemsize,), (1,))
    data = driver.run(
        *(DTYPES.index(logits.dtype), int(is_bytes), bits(memory), n, k, h, w, *logits.stride()),
        *(labels, targets if is_bytes else targets.to(wide), grad.to(wide)),
    )
    errors, gradient = (
        torch.zeros(shape, dtype=logits.dtype) for shape in ((n, h, w), (n, k, h, w))
    )
    losses, *others = split(data, [torch.zeros(n, dtype=wide), bits(errors), bits(gradient)])
    return losses, *(x.view(logits.dtype) for x in others)


def expected(logits, targets, labels, grad):
    logits = logits.clone().requires_grad_()
    losses, _ = reference(logits, targets, labels=labels)
    return losses, torch.autograd.grad(losses, logits, grad.to(losses))[0]


def inputs(n, k, h, w, dtype):
    return (torch.randn(n, k, h, w) * 4).to(dtype), torch.randint(0, k, (n,)), torch.randn(n)


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_matches_reference(hostcuda, sanitizer):
    driver = hostcuda("mask_edge_loss", sanitizer, FEW_THREADS)
    dtypes = DTYPES if sanitizer == "memory" else DTYPES[:1]
    for dtype in dtypes:
        for shape, layout in (
            ((3, 5, 14, 14), torch.contiguous_format),
            ((2, 3, 7, 23), torch.channels_last),
            ((2, 1, 5, 3), torch.contiguous_format),
        ):
            logits, labels, grad = inputs(*shape, dtype)
            logits = logits.contiguous(memory_format=layout)
            soft = torch.rand(shape[0], *shape[2:])
            for targets in (soft, soft.round().byte()):
                losses, _, gradient = run(driver, logits, targets, labels, grad)
                exact = expected(logits.double(), targets.double(), labels, grad.double())
                plain = expected(logits, targets, labels, grad)
                for name, *values in zip(("loss", "gradient"), (losses, gradient), exact, plain):
                    assert_as_accurate(*values, name)


def test_no_rois(hostcuda):
    driver = hostcuda("mask_edge_loss", "memory", FEW_THREADS)
    logits, labels, grad = inputs(0, 3, 4, 4, torch.float32)
    assert [len(x) for x in run(driver, logits, torch.zeros(0, 4, 4), labels, grad)] == [0, 0, 0]


def test_labels_out_of_range_give_zeros(hostcuda):
    driver = hostcuda("mask_edge_loss", "memory", FEW_THREADS)
    logits, _, _ = inputs(3, 3, 4, 5, torch.float32)
    labels, grad = torch.tensor([3, -1, 2]), torch.tensor([1.0, float("nan"), 1.0])
    for x in run(driver, logits, torch.ones(3, 4, 5), labels, grad):
        assert not x[:2].any()
        assert x[2].any()


@pytest.mark.parametrize("target", [0.0, 1.0, 0.5])
def test_what_is_not_finite_gives_what_torch_gives(hostcuda, target):
    driver = hostcuda("mask_edge_loss", "memory", FEW_THREADS)
    inf, nan = float("inf"), float("nan")
    logits = torch.tensor([inf, -inf, nan, 0.0, -0.0, 3e4, -3e4, 100.0, -90.0]).view(-1, 1, 1, 1)
    labels, grad = torch.zeros(9, dtype=torch.int64), torch.ones(9)
    targets = torch.full((9, 1, 1), target)
    losses, _, gradient = run(driver, logits, targets, labels, grad)
    wanted = expected(logits, targets, labels, grad)
    torch.testing.assert_close((losses, gradient), wanted, equal_nan=True)


@pytest.mark.parametrize(
    ("sanitizer", "right", "wrong", "report"),
    [
        ("threads", "__syncthreads();", "", "data race"),
        ("memory", "k >= 0 && k < shape.classes", "k >= 0 && k <= shape.classes", "overflow"),
        ("memory", "i < size;", "i <= size;", "overflow"),
    ],
    ids=["no barrier", "a class too many", "a number too many"],
)
def test_planted_faults_are_caught(hostcuda, sanitizer, right, wrong, report):
    driver = hostcuda("mask_edge_loss", sanitizer, {**FEW_THREADS, right: wrong})
    logits, _, grad = inputs(2, 3, 8, 8, torch.float32)
    with pytest.raises(SanitizerError, match=report):
        run(driver, logits, torch.ones(2, 8, 8), torch.tensor([1, 3]), grad)
