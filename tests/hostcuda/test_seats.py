"""Whole CUDA seats on the CPU: the host code of csrc/cuda/*.cu with its kernels.

Each operator's files become a library that takes the place of the CPU's kernels, and tests of
tests/ops run on it. The selected ones are short, for a thread of a block is one of the operating
system; `cpu_only` is left out, being about the CPU's own kernels or about checks before any.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import LONGEST, ROOT

SEATS = {  # of an operator: its files of csrc/cuda, and which of its tests
    "bucket_rois": ("bucket_rois", "by_hand or matches or range"),
    "class_logits": ("class_logits", "by_hand or strides or out_of_range"),
    "deform_conv2d": (
        "deform_conv2d deform_conv2d_backward",
        "by_hand or dy_comes or keeps_the_layout or in_place",
    ),
    "edge_targets": ("edge_targets", "by_hand or list or empty or foreground or strides"),
    "encode_masks": ("encode_masks", "by_hand or join or empty or strides"),
    "grouped_mask_head": ("grouped_mask_head", "by_hand or dtypes or order or without or range"),
    "mask_edge_loss": ("mask_edge_loss", "by_hand or edges_may or strides or requested or unused"),
    "mask_targets": (
        "mask_targets mask_targets_polygons mask_targets_rle",
        "by_hand or rings or all_sizes or thin or empty",
    ),
    "nms": ("nms", "by_hand or exactly or equal_scores or (fixed and not compiles) or strides"),
    "paste_masks": ("paste_masks", "by_hand or outside or empty or strides or without_area"),
    "roi_align": (
        "roi_align multiscale_roi_align pyramid_pooling",
        "by_hand or where_the or one_map or mixed or no_boxes or read_in or layout_of",
    ),
}
FAULTS = {  # of host code, which the tests of strides show: memory is read as if it were contiguous
    "class_logits": ("contiguous(features_)", "features_"),
    "edge_targets": ("contiguous(of_size)", "of_size"),
}


def run(
    name: str, selected: str, folder: Path, source: Path = ROOT / "csrc"
) -> subprocess.CompletedProcess:
    """Builds the seats of an operator and runs the selected of its tests on them."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    files = [source / f"cuda/{stem}.cu" for stem in SEATS[name][0].split()]
    where = Path(torch.__file__).parent
    library = folder / "libseats.so"
    build = [compiler, "-std=c++20", "-O1", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"]
    build += ["-ffp-contract=off", "-DTORCH_TARGET_VERSION=0x020a000000000000ULL", f"-I{source}"]
    build += [f"-isystem{where / 'include'}", f"-L{where / 'lib'}", "-o", library]
    built = subprocess.run(
        [*build, "-xc++", *files, "-xnone", "-ltorch_cpu", "-lc10"], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    schemas = [s for file in files for s in re.findall(r'm\.impl\("(\w+)"', file.read_text())]
    tests = ["-q", "-pno:cacheprovider", "-mnot cpu_only", f"-k{selected}"]
    tests += sorted((ROOT / "tests/ops").glob(f"test_*{name}*.py"))
    program = [sys.executable, Path(__file__).with_name("run_on_seats.py")]
    return subprocess.run(
        [*program, library, ",".join(schemas), *tests],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=LONGEST,
    )


@pytest.mark.parametrize("name", SEATS)
def test_seats_pass_the_tests_of_the_operator(name, tmp_path):
    ran = run(name, SEATS[name][1], tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\d+ passed", ran.stdout), ran.stdout
    assert "skipped" not in ran.stdout, ran.stdout


def test_every_file_of_cuda_is_a_seat_here():
    named = {stem for stems, _ in SEATS.values() for stem in stems.split()}
    assert named == {path.stem for path in (ROOT / "csrc/cuda").glob("*.cu")}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_caught(name, tmp_path):
    right, wrong = FAULTS[name]
    source = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", source)
    path = source / f"cuda/{name}.cu"
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    ran = run(name, "strides", tmp_path, source)
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout + ran.stderr
