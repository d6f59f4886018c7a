import pytest
import torch

from dynamask.benchmarks.harness import Case
from dynamask.ops import class_logits
from dynamask.reference.class_logits import class_logits as reference


def cases():
    for channels, side in ((256, 14), (128, 28), (64, 56)):
        torch.manual_seed(0)
        features = torch.randn(100, channels, side, side)
        features = features.contiguous(memory_format=torch.channels_last)
        weight, bias = torch.randn(80, channels), torch.randn(80)
        labels = torch.randint(0, 80, (100,))
        args = (features, weight, bias, labels)

        def all_classes(features=features, weight=weight, bias=bias, labels=labels):
            logits = torch.nn.functional.conv2d(features, weight[:, :, None, None], bias)
            return logits[torch.arange(len(labels)), labels]

        yield Case(
            op="class_logits",
            case=f"N=100 {channels}@{side} K=80",
            ours=lambda args=args: class_logits(*args),
            baseline=all_classes,
            baseline_name="conv2d, then pick",
            check=lambda args=args: torch.testing.assert_close(
                class_logits(*args), reference(*args), rtol=1e-4, atol=1e-4
            ),
        )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_class_logits(case, report):
    report(case)
