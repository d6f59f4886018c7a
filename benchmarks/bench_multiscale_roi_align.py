"""The pyramid of an 800 x 1333 image, boxes of all sizes, against torchvision's module."""

from typing import ClassVar

import pytest
import torch

from dynamask.benchmarks.harness import Case
from dynamask.ops import MultiScaleRoIAlign

NAMES = ["0", "1", "2", "3"]
IMAGE = (800, 1344)
SHAPES = ((100, 14), (512, 14), (25, 56), (100, 28), (1000, 7))  # boxes, output size
LAYOUTS = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}


class Pooling:
    """One pooler with its maps, forward and backward."""

    with_graph: ClassVar[list["Pooling"]] = []  # ours and theirs of one case: graphs hold much

    def __init__(self, pooler, maps, boxes):
        self.pooler, self.maps, self.boxes = pooler, maps, boxes
        self.graph = None

    def __call__(self):
        with torch.no_grad():
            return self.pooler(self.maps, [self.boxes], [IMAGE])

    def gradients(self):
        if self.graph is None:
            if len(self.with_graph) == 2:
                for other in self.with_graph:
                    other.graph = None
                self.with_graph.clear()
            self.with_graph.append(self)
            out = self.pooler(self.maps, [self.boxes], [IMAGE])
            grad = torch.empty_like(out)  # in its layout
            grad.copy_(torch.linspace(-1, 1, out.numel(), device=out.device).view(out.shape))
            self.graph = out, list(self.maps.values()), grad
        out, inputs, grad = self.graph
        return torch.autograd.grad(out, inputs, grad, retain_graph=True)

    def filled(self):
        """The memory of the output, and that alone."""
        size = self.pooler.output_size
        return self.maps[NAMES[0]].new_zeros(len(self.boxes), 256, *size)


def pyramid():
    torch.manual_seed(0)
    levels = zip(NAMES, range(2, 6))
    return {name: torch.randn(1, 256, IMAGE[0] >> k, IMAGE[1] >> k) for name, k in levels}


def boxes_of_all_sizes(n):
    """Sides from 16 to 900 pixels, as many in each octave."""
    torch.manual_seed(1)
    side = torch.exp2(torch.rand(n) * 5.8 + 4)
    ratio = torch.exp(torch.randn(n) * 0.4).sqrt()
    width, height = (side * ratio).clamp(max=1300), (side / ratio).clamp(max=780)
    x, y = torch.rand(n) * (1333 - width), torch.rand(n) * (800 - height)
    return torch.stack([x, y, x + width, y + height], 1)


def poolings():
    """(case, dtype, ours, torchvision's) of every shape, layout and dtype."""
    ops = pytest.importorskip("torchvision").ops
    planes = {name: x.requires_grad_() for name, x in pyramid().items()}
    for layout, memory_format in LAYOUTS.items():
        for dtype in ("float32", "bfloat16")[: 2 if layout == "NHWC" else 1]:
            maps = {
                name: x.detach().to(getattr(torch, dtype)).contiguous(memory_format=memory_format)
                for name, x in planes.items()
            }
            maps = {name: x.detach().requires_grad_() for name, x in maps.items()}
            for n, size in SHAPES:
                boxes = boxes_of_all_sizes(n)
                ours = Pooling(MultiScaleRoIAlign(NAMES, size, 2), maps, boxes)
                theirs = Pooling(ops.MultiScaleRoIAlign(NAMES, size, 2), planes, boxes)
                yield f"N={n} 256@{size} {layout}", dtype, ours, theirs


def cases():
    for case, dtype, ours, theirs in poolings():
        # torchvision has no bf16 here; it pools the same map in fp32
        name = "torchvision" if dtype == "float32" else "torchvision in fp32"
        tolerance = 1e-4 if dtype == "float32" else 0.05

        def check(ours=ours, theirs=theirs, tolerance=tolerance):
            torch.testing.assert_close(ours().float(), theirs(), rtol=tolerance, atol=tolerance)

        forward = (ours, theirs, name, check, dtype, "forward", ours.filled)
        yield Case("multiscale_roi_align", case, *forward)

        def check_gradients(ours=ours, theirs=theirs):
            for got, expected in zip(ours.gradients(), theirs.gradients()):
                torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)

        if dtype == "float32":
            backward = (ours.gradients, theirs.gradients, name, check_gradients, dtype, "backward")
            yield Case("multiscale_roi_align", case, *backward)


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_multiscale_roi_align(case, report):
    report(case)
