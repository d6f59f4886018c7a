"""No Triton kernel reads or writes outside of its tensors."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str) -> subprocess.CompletedProcess:
    program = [sys.executable, "-m", "tests.kernels.interpreted.fenced", *arguments]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True)


def test_nothing_strays():
    ran = run()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.endswith("done\n")


def test_what_strays_is_seen():
    assert run("stray").returncode == -signal.SIGSEGV
