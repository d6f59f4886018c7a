import pytest
import torch

from dynamask.benchmarks.harness import Case
from dynamask.ops import roi_align

LAYOUTS = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}


def cases():
    ops = pytest.importorskip("torchvision").ops
    for layout, memory_format in LAYOUTS.items():
        for n, size in ((100, 14), (512, 7)):
            torch.manual_seed(0)
            planes = torch.randn(1, 256, 100, 168).requires_grad_()
            ours = planes.detach().contiguous(memory_format=memory_format).requires_grad_()
            boxes = torch.rand(n, 5) * torch.tensor([0, 1000, 500, 200, 200])
            boxes[:, 3:] += boxes[:, 1:3] + 50
            args = (boxes, size, 0.125, 2, True)
            yield from both_directions(
                f"N={n} 256@{size} {layout}", ops.roi_align, planes, ours, args
            )


def both_directions(case, torchvision, planes, x, args):
    def check():
        torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-4)

    def ours():
        with torch.no_grad():
            return roi_align(x, *args)

    def theirs():
        with torch.no_grad():
            return torchvision(planes, *args)

    yield Case("roi_align", case, ours, theirs, "torchvision", check)

    out, expected = roi_align(x, *args), torchvision(planes, *args)
    grad = torch.randn_like(out)

    def grad_ours():
        return torch.autograd.grad(out, x, grad, retain_graph=True)[0]

    def grad_theirs():
        return torch.autograd.grad(expected, planes, grad, retain_graph=True)[0]

    def check_grads():
        torch.testing.assert_close(grad_ours(), grad_theirs(), rtol=1e-4, atol=1e-4)

    yield Case(
        "roi_align", case, grad_ours, grad_theirs, "torchvision", check_grads, direction="backward"
    )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_roi_align(case, report):
    report(case)
