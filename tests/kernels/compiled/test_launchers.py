"""The C modules by which Triton starts kernels: they build, and take the arguments of each."""

import subprocess
import sys
from pathlib import Path

import pytest

from dynamask import _triton

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(_triton._why_no_launcher() is not None, reason="no C compiler for Triton")
def test_launchers_take_the_arguments(tmp_path):
    command = [sys.executable, "-m", "tests.kernels.compiled.launchers", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("done\n"), done.stdout + done.stderr
