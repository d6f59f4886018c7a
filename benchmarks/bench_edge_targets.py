import pytest
import torch

from dynamask.benchmarks.harness import Case
from dynamask.ops import edge_targets
from dynamask.reference.edge_targets import edge_targets as reference


def cases():
    for side in (14, 28, 56, 112):
        for union in (False, True):
            torch.manual_seed(0)
            noise = torch.rand(128, 1, side, side)
            masks = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)[:, 0] > 0.5
            for dtype in (torch.uint8, torch.float32):
                args = (masks.to(dtype), union)
                yield Case(
                    op="edge_targets",
                    case=f"N=128 {side}@{side}" + (" union" if union else ""),
                    ours=lambda args=args: edge_targets(*args),
                    baseline=lambda args=args: reference(*args),
                    baseline_name="conv2d",
                    check=lambda args=args: torch.testing.assert_close(
                        edge_targets(*args), reference(*args), rtol=0, atol=0
                    ),
                    dtype=str(dtype).removeprefix("torch."),
                    floor=lambda args=args: args[0].clone(),
                )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_edge_targets(case, report):
    report(case)
