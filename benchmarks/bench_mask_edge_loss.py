"""The loss of one training step, forward and backward, at each mask size."""

from functools import cached_property

import pytest
import torch
import torch.nn.functional as F

from dynamask.benchmarks.harness import Case
from dynamask.ops import mask_edge_loss

ROIS = 128


def by_torch(masks, mask_targets, edges, edge_targets, labels, weights):
    """What Mask R-CNN heads do, and edges alike."""
    rows = torch.arange(len(labels), device=labels.device)

    def loss(logits, targets):
        if logits.dim() == 4:
            logits = logits[rows, labels]
        each = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
        return each.mean((1, 2)) * weights

    return loss(masks.float(), mask_targets), loss(edges.float(), edge_targets)


class Step:
    """Losses and gradients of logits of all classes, or of those of each RoI's own class."""

    def __init__(self, side, classes, dtype=torch.float32):
        self.side, self.classes, self.dtype = side, classes, dtype
        self.name = f"{side}@{side}"

    @cached_property
    def targets(self):
        torch.manual_seed(0)
        shape = (ROIS, self.side, self.side)
        masks, edges = ((torch.rand(shape) < share).byte() for share in (0.5, 0.1))
        return masks, edges, torch.randint(0, max(self.classes, 1), (ROIS,)), torch.rand(ROIS)

    @cached_property
    def all_logits(self):
        shape = (ROIS, *[self.classes] * (self.classes > 1), self.side, self.side)
        return [torch.randn(shape).to(self.dtype).requires_grad_() for _ in range(2)]

    @cached_property
    def own_logits(self):
        return [self.pick(x).detach().clone().requires_grad_() for x in self.all_logits]

    def pick(self, logits):
        return logits[torch.arange(ROIS), self.targets[2]] if logits.dim() == 4 else logits

    def run(self, function, logits):
        masks, edges, labels, weights = self.targets
        losses = function(logits[0], masks, logits[1], edges, labels=labels, weights=weights)
        return torch.autograd.grad(losses[0].sum() + losses[1].sum(), logits)

    def ours_of_all(self):
        return self.run(mask_edge_loss, self.all_logits)

    def ours_of_own(self):
        return self.run(mask_edge_loss, self.own_logits)

    def baseline(self):
        return self.run(by_torch, self.all_logits)

    def floor_of_all(self):
        return [torch.zeros_like(x) for x in self.all_logits]

    def floor_of_own(self):
        return [torch.zeros_like(x) for x in self.own_logits]

    def check(self, ours):
        tolerance = 1e-5 if self.dtype == torch.float32 else 1e-2
        for got, expected in zip(ours(), self.baseline()):
            expected = expected if got.dim() == expected.dim() else self.pick(expected)
            torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * 1e-3)


class AllSizes:
    """The losses and gradients of all mask sizes, as DynaMask trains: one call, or one per size."""

    def __init__(self, dtype):
        self.name, self.classes, self.dtype = "14 to 112", 1, dtype

    @cached_property
    def steps(self):
        return [Step(side, 1, self.dtype) for side in (14, 28, 56, 112)]

    @cached_property
    def lists(self):
        """Logits of masks, their targets, logits of edges and theirs, of every size."""
        logits = [[step.all_logits[k] for step in self.steps] for k in range(2)]
        targets = [[step.targets[k] for step in self.steps] for k in range(2)]
        return logits[0], targets[0], logits[1], targets[1]

    def run(self, losses):
        logits = [*self.lists[0], *self.lists[2]]
        return torch.autograd.grad(sum(loss.sum() for loss in losses), logits)

    def ours_of_all(self):
        return self.run(mask_edge_loss(*self.lists))

    def baseline(self):
        labels, weights = self.steps[0].targets[2], torch.ones(ROIS)
        return self.run([x for one in zip(*self.lists) for x in by_torch(*one, labels, weights)])

    def floor_of_all(self):
        return [torch.zeros_like(x) for step in self.steps for x in step.all_logits]

    def check(self, ours):
        tolerance = 1e-5 if self.dtype == torch.float32 else 1e-2
        for got, expected in zip(ours(), self.baseline()):
            torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * 1e-3)


def case(step, name, ours, floor):
    return Case(
        op="mask_edge_loss",
        case=f"N={ROIS} {step.name} {name}",
        ours=ours,
        baseline=step.baseline,
        baseline_name="torch ops" + (" on 80 classes" if step.classes > 1 else ""),
        check=lambda: step.check(ours),
        dtype=str(step.dtype).removeprefix("torch."),
        direction="both",
        floor=floor,
    )


def cases():
    for side in (14, 28, 56):
        step = Step(side, 80)
        yield case(step, "own class", step.ours_of_own, step.floor_of_own)
        yield case(step, "80 classes", step.ours_of_all, step.floor_of_all)
    for side in (14, 28, 56, 112):
        for dtype in (torch.float32, torch.bfloat16):
            step = Step(side, 1, dtype)
            yield case(step, "one class", step.ours_of_all, step.floor_of_all)
    for dtype in (torch.float32, torch.bfloat16):
        step = AllSizes(dtype)
        yield case(step, "one call", step.ours_of_all, step.floor_of_all)


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_mask_edge_loss(case, report):
    report(case)
