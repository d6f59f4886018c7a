"""Smaller masks take less time, not just fewer MACs."""

import statistics
import time

import pytest
import torch

from dynamask.models.dynamic_mask_head import DynamicMaskHead
from dynamask.models.instances import Instances

SHARES = (0.35, 0.34, 0.21, 0.10)  # Table 9, a budget of 0.4
ROIS = 20


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def states_by_share(shares, count):
    states = [k for k, share in enumerate(shares) for _ in range(round(share * count))]
    return torch.tensor(states)[torch.randperm(len(states))]


def test_time_follows_the_chosen_sizes(one_thread, monkeypatch):
    head = DynamicMaskHead(3, 32, 32).eval()
    features = [torch.randn(1, 32, 64 // s, 64 // s) for s in (1, 2, 4, 8)]
    corner = torch.rand(ROIS, 2) * 100
    zeros = torch.zeros(ROIS, dtype=torch.int64)
    instances = Instances(torch.cat([corner, corner + 60], 1), zeros, zeros)
    mixed = torch.nn.functional.one_hot(states_by_share(SHARES, ROIS), 4).float()
    monkeypatch.setattr(head.selector.switch, "forward", lambda features: mixed)

    seconds = {mode: [] for mode in ("fixed=14", "fixed=28", "fixed=56", "fixed=112", "dynamic")}
    for _ in range(7):
        for mode, times in seconds.items():
            head.selector.mode = mode
            start = time.process_time()
            with torch.no_grad():
                head(head.context(features, [(256, 256)]), instances)
            times.append(time.process_time() - start)
    median = {mode: statistics.median(times) for mode, times in seconds.items()}
    fixed = [median[f"fixed={size}"] for size in head.sizes]
    assert fixed == sorted(fixed), median
    assert median["dynamic"] < fixed[-1], median
