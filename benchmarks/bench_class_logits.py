import pytest
import torch

from dynamask.benchmarks.harness import Case
from dynamask.ops import class_logits
from dynamask.reference.class_logits import class_logits as reference


def all_classes(features, weight, bias, labels):
    logits = torch.nn.functional.conv2d(features, weight[:, :, None, None], bias)
    return logits[torch.arange(len(labels), device=labels.device), labels]


def cases():
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.02)):
        for channels, side in ((256, 14), (128, 28), (64, 56)):
            torch.manual_seed(0)
            features = torch.randn(100, channels, side, side, dtype=dtype)
            features = features.contiguous(memory_format=torch.channels_last)
            weight, bias = torch.randn(80, channels, dtype=dtype), torch.randn(80, dtype=dtype)
            args = (features, weight, bias, torch.randint(0, 80, (100,)))
            yield Case(
                op="class_logits",
                case=f"N=100 {channels}@{side} K=80",
                ours=lambda args=args: class_logits(*args),
                baseline=lambda args=args: all_classes(*args),
                baseline_name="conv2d, then pick",
                check=lambda args=args, tolerance=tolerance: torch.testing.assert_close(
                    class_logits(*args), reference(*args), rtol=tolerance, atol=tolerance
                ),
                dtype=str(dtype).removeprefix("torch."),
            )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_class_logits(case, report):
    report(case)
