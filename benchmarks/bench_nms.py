import pytest
import torch

from dynamask.benchmarks.harness import Case
from dynamask.ops import batched_nms, nms


def check(ours, theirs, args):
    """On the CPU: on a GPU torchvision rounds the boxes that it moves apart."""
    on_cpu = [x.cpu() if isinstance(x, torch.Tensor) else x for x in args]
    assert torch.equal(ours(*args).cpu(), theirs(*on_cpu))


def cases():
    ops = pytest.importorskip("torchvision").ops
    for n in (1000, 4000, 16000):
        torch.manual_seed(0)
        boxes = torch.rand(n, 4) * torch.tensor([1200, 700, 150, 150])
        boxes[:, 2:] += boxes[:, :2]
        scores, classes = torch.randperm(n) / n, torch.randint(0, 80, (n,))
        for name, ours, theirs, args in (
            ("", nms, ops.nms, (boxes, scores, 0.5)),
            (" 80 classes", batched_nms, ops.batched_nms, (boxes, scores, classes, 0.5)),
        ):
            yield Case(
                op="nms",
                case=f"N={n}{name}",
                ours=lambda f=ours, args=args: f(*args),
                baseline=lambda f=theirs, args=args: f(*args),
                baseline_name="torchvision",
                check=lambda a=ours, b=theirs, args=args: check(a, b, args),
            )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_nms(case, report):
    report(case)
