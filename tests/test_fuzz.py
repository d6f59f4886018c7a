import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPILER = shutil.which("g++") or shutil.which("clang++")


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_damaged_run_lengths_under_sanitizers(tmp_path):
    program = tmp_path / "fuzz_rle"
    build = [COMPILER, "-std=c++17", "-O1", "-g", "-fsanitize=address,undefined"]
    build += ["-fno-sanitize-recover", f"-I{ROOT}/csrc", ROOT / "tests/native/fuzz_rle.cpp"]
    built = subprocess.run([*build, "-o", program], capture_output=True, text=True)
    if "cannot find" in built.stderr:
        pytest.skip("the compiler has no sanitizer libraries")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([program, "2", "1"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
