"""Memory follows the masks, not the image: peaks measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

IN_LINUX = Path("/proc/self/clear_refs")
pytestmark = pytest.mark.skipif(not IN_LINUX.exists(), reason="needs /proc to measure a peak")

PEAK = """
import torch
from pathlib import Path

torch.set_num_threads(1)
torch.manual_seed(0)
IMAGE = (2160, 3840)

def boxes_of(count):
    corner = torch.rand(count, 2) * torch.tensor([3000.0, 1500.0])
    return torch.cat([corner, corner + 20 + torch.rand(count, 2) * 500], 1)

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))

def megabytes(call):
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    call()
    return status("VmHWM") - before
"""

MASKS = """
from dynamask.models.dynamic_mask_head import DynamicMaskHead
from dynamask.models.fused import fuse
from dynamask.models.instances import Instances
from dynamask.ops import encode_masks

COUNT, CHANNELS = 1000, {channels}
head = fuse(DynamicMaskHead(80, CHANNELS, CHANNELS))
levels = [torch.randn(1, CHANNELS, -(-2160 // s), 3840 // s) for s in (4, 8, 16, 32)]
levels = [level.to(memory_format=torch.channels_last) for level in levels]
zeros = torch.zeros(COUNT, dtype=torch.int64)
instances = Instances(boxes_of(COUNT), torch.randint(80, (COUNT,)), zeros)
shares = (0.35, 0.34, 0.21, 0.10)
state = torch.tensor([k for k, share in enumerate(shares) for _ in range(round(share * COUNT))])
state = state[torch.randperm(COUNT)]

@torch.no_grad()
def features_to_run_lengths():
    context = head.context(levels, [IMAGE])
    x = head.roi_features(context, instances)
    logits = head.pyramid(x, context, instances, state)
    masks = encode_masks(head.decode(logits, instances), instances.boxes, IMAGE)
    assert len(masks) == COUNT

print(megabytes(features_to_run_lengths))
"""

TARGETS = """
from dynamask.ops import Polygons, mask_targets

boxes = boxes_of(512)
outlines = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in boxes.tolist()]
polygons, index = Polygons.of(outlines), torch.arange(512)
print(megabytes(lambda: mask_targets(polygons, boxes, index, (14, 28, 56, 112))))
"""


def peak(program: str) -> float:
    """Megabytes that the call in ``program`` needs beyond what was there before."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK + program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


@pytest.mark.parametrize(
    ("channels", "limit"), [(64, 400), pytest.param(256, 1500, marks=pytest.mark.slow)]
)
def test_a_thousand_masks_of_a_large_image(channels, limit):
    """The limit is 1.5 GB for 256 channels; a frame of bytes per mask would be 8.3 GB."""
    assert peak(MASKS.format(channels=channels)) < limit


def test_training_targets_are_never_frames():
    """A frame per RoI would be 4.2 GB; the targets themselves are 9 MB."""
    assert peak(TARGETS) < 60
