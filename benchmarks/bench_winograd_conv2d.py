import pytest
import torch
import torch.nn.functional as F

from dynamask.benchmarks.harness import Case, on_gpu
from dynamask.ops import winograd_conv2d, winograd_conv2d_weight

SHAPES = [  # N, C, H, W: where a ResNet-50 with a pyramid spends its 3x3 convolutions at 800x1333
    (1, 256, 200, 336),
    (1, 64, 200, 336),
    (1, 128, 100, 168),
    (1, 256, 50, 84),
    (1, 512, 25, 42),
    (100, 256, 14, 14),
]


def cases():
    for n, c, h, w in SHAPES if not on_gpu() else ():  # an operator for the CPU
        torch.manual_seed(0)
        x = torch.randn(n, c, h, w).to(memory_format=torch.channels_last)
        weight, bias = torch.randn(c, c, 3, 3) / (3 * c**0.5), torch.randn(c)
        packed = winograd_conv2d_weight(weight)
        plain = weight.to(memory_format=torch.channels_last)

        def ours(x=x, packed=packed, bias=bias):
            return winograd_conv2d(x, packed, bias)

        def baseline(x=x, plain=plain, bias=bias):
            return F.conv2d(x, plain, bias, padding=1)

        def check(ours=ours, baseline=baseline):
            torch.testing.assert_close(ours(), baseline(), atol=2e-5, rtol=1e-5)

        yield Case(
            op="winograd_conv2d",
            case=f"{n}x{c}x{h}x{w}",
            ours=ours,
            baseline=baseline,
            baseline_name="torch conv2d (oneDNN), channels_last",
            check=check,
        )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_winograd_conv2d(case, report):
    report(case)
