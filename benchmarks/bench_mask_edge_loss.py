"""The loss of one training step, forward and backward, at each mask size."""

import pytest
import torch
import torch.nn.functional as F
from harness import Case

from dynamask.ops import mask_edge_loss

ROIS = 128
SHAPES = ((80, 14), (80, 28), (80, 56), (1, 14), (1, 28), (1, 56), (1, 112))  # classes, side


def by_torch(masks, mask_targets, edges, edge_targets, labels, weights):
    rows = torch.arange(len(labels))

    def loss(logits, targets):
        picked = logits[rows, labels] if logits.shape[1] > 1 else logits[:, 0]
        each = F.binary_cross_entropy_with_logits(picked, targets.float(), reduction="none")
        return each.mean((1, 2)) * weights

    return loss(masks, mask_targets), loss(edges, edge_targets)


class Step:
    """Logits of masks and edges, made when first needed, and a step down either way."""

    def __init__(self, classes, side, dtype):
        self.classes, self.side, self.dtype = classes, side, dtype
        self.tensors = None

    def inputs(self):
        if self.tensors is None:
            torch.manual_seed(0)
            shape = (ROIS, self.classes, self.side, self.side)
            masks, edges = (torch.randn(shape).to(self.dtype).requires_grad_() for _ in range(2))
            mask, edge = ((torch.rand(ROIS, *shape[2:]) < p).byte() for p in (0.5, 0.1))
            labels = torch.randint(0, self.classes, (ROIS,))
            self.tensors = masks, mask, edges, edge, labels, torch.rand(ROIS)
        return self.tensors

    def gradients(self, function, dtype=None):
        masks, mask, edges, edge, labels, weights = self.inputs()
        if dtype:  # what has no kernel for the logits' own dtype
            args = masks.to(dtype), mask, edges.to(dtype), edge
        else:
            args = masks, mask, edges, edge
        of_masks, of_edges = function(*args, labels=labels, weights=weights)
        return torch.autograd.grad(of_masks.sum() + of_edges.sum(), [masks, edges])

    def ours(self):
        return self.gradients(mask_edge_loss)

    def baseline(self):
        return self.gradients(by_torch, torch.float32)

    def floor(self):
        masks, _, edges, *_ = self.inputs()
        return masks.detach().clone(), edges.detach().clone()

    def check(self):
        tolerance = 1e-5 if self.dtype == torch.float32 else 1e-2
        for got, expected in zip(self.ours(), self.baseline()):
            torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * 1e-3)


def cases():
    for classes, side in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            if classes > 1 and dtype != torch.float32:
                continue
            step = Step(classes, side, dtype)
            yield Case(
                op="mask_edge_loss",
                case=f"N={ROIS} K={classes} {side}@{side}",
                ours=step.ours,
                baseline=step.baseline,
                baseline_name="torch ops",
                check=step.check,
                dtype=str(dtype).removeprefix("torch."),
                direction="forward and backward",
                floor=step.floor,
            )


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_mask_edge_loss(case, report):
    report(case)
