"""`dynamask bench` and the file it writes."""

import importlib
import json
import os
import subprocess
import sys

import pytest
import torch

from dynamask.benchmarks import harness, speed_table, targets
from dynamask.cli import main

from .pretend_cuda import PretendCuda

ROW = {
    "op", "case", "dtype", "direction", "threads", "ours_ms", "baseline", "baseline_ms", "ratio",
    "floor_ms",
}  # fmt: skip


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def case(**changes):
    x = torch.ones(4)
    settings = {
        "op": "double",
        "case": "N=4",
        "ours": lambda: x + x,
        "baseline": lambda: x * 2,
        "baseline_name": "torch",
        "check": lambda: torch.testing.assert_close(x + x, x * 2),
    }
    return harness.Case(**{**settings, **changes})


def test_rows_and_file_have_the_format_of_the_results(tmp_path, capsys):
    out = tmp_path / "rows.json"
    command = ["bench", "ops", "bucket_rois", "--seconds", "0.01", "--json", str(out)]
    assert main(command) == 0
    result = json.loads(out.read_text())
    assert set(result) == {"device", "cpu", "gpu", "torch", "commit", "date", "rows"}
    assert result["rows"]
    assert all(set(row) == ROW for row in result["rows"])
    assert capsys.readouterr().out.count("| `bucket_rois` |") == len(result["rows"])


def test_an_unknown_name_gets_a_hint(capsys):
    assert main(["bench", "ops", "edge_target"]) == 2
    assert "did you mean 'edge_targets'?" in capsys.readouterr().err


def test_a_failed_check_gives_no_number():
    wrong = case(check=lambda: torch.testing.assert_close(torch.ones(1), torch.zeros(1)))
    with pytest.raises(AssertionError):
        harness.measure(wrong, 0.01)


def test_ratio_is_of_medians_and_the_floor_is_optional():
    row = harness.measure(case(), 0.01)
    assert row["floor_ms"] is None
    assert row["ratio"] == pytest.approx(row["baseline_ms"] / row["ours_ms"], rel=0.1)
    assert harness.measure(case(floor=lambda: None), 0.01)["floor_ms"] >= 0


def test_baseline_and_ours_run_in_turn_each_once_before_it_is_timed(monkeypatch):
    monkeypatch.setattr(harness, "LEAST", 0.0)
    calls = []
    both = case(ours=lambda: calls.append("ours"), baseline=lambda: calls.append("baseline"))
    harness.measure(both, 0.0)
    assert calls == 2 * ["baseline", "ours"] + 3 * ["baseline", "baseline", "ours", "ours"]


def test_a_call_of_microseconds_is_timed_many_times_at_once():
    x = torch.ones(1000)
    calls = []
    row = harness.measure(case(ours=lambda: calls.append(x + x), baseline=lambda: x * 2), 0.0)
    assert len(calls) > 20
    assert 0 < row["ours_ms"] < 0.2


def test_rows_of_another_commit_do_not_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    old, new = {"op": "a", "case": "old"}, {"op": "a", "case": "new"}
    for row in (old, new):
        row |= {"dtype": "float32", "direction": "forward", "threads": 1, "baseline": "torch"}
    here = harness.machine()
    monkeypatch.setattr(harness, "machine", lambda: {**here, "commit": "first"})
    harness.write([old])
    assert len(json.loads(harness.write([new]).read_text())["rows"]) == 2
    monkeypatch.setattr(harness, "machine", lambda: {**here, "commit": "second"})
    assert json.loads(harness.write([new]).read_text())["rows"] == [new]


def test_measures_on_a_gpu(tmp_path):
    """Here on one that is pretended: the harness, not its numbers."""
    wrong = tmp_path / "wrong.txt"
    name = "bucket_rois N=100, 4 states int64 forward vs torch sort and bincount"
    wrong.write_text(f"benchmarks/bench_bucket_rois.py::test_bucket_rois[{name}]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pretend_cuda", "--device", "cuda"]
    # pytest-benchmark does not measure where it finds itself beside pytest-xdist
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTHONPATH"] = "tests"
    done = subprocess.run(
        [*command, "--leave-out", wrong, "--seconds", "0", "benchmarks/bench_bucket_rois.py"],
        cwd=speed_table.README.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    shown = done.stdout
    assert done.returncode == 0, shown[-3000:]
    assert "3 passed, 1 deselected" in shown
    assert "targets on a GPU" in shown
    assert ">= 5x  bucket_rois | dispatch" in shown
    assert shown.index("| dispatch N=512") < shown.index("| N=512")  # what has a target comes first


def test_ceilings_are_measured():
    """Here of a CPU that says it is a GPU: of what they are made, not how high they are."""
    tune = pytest.importorskip("dynamask.benchmarks.tune")  # which needs Triton
    with PretendCuda(), torch.device("cuda"):
        found = tune.ceilings(side=64)
    assert found.keys() == {"TFLOP/s", "TB/s"}
    assert all(0 < x < 100 for x in found.values())


def test_a_check_names_what_is_wrong(tmp_path):
    bench = tmp_path / "bench_wrong.py"
    bench.write_text(
        "import pytest\nfrom dynamask.benchmarks.harness import Case\n"
        "def check():\n    assert False\n"
        "BOTH = enumerate((dict, check))\n"
        "CASES = [Case('op', f'N={k}', None, None, 'torch', c) for k, c in BOTH]\n"
        "@pytest.mark.parametrize('case', CASES, ids=str)\n"
        "def test_op(case, report):\n    report(case)\n"
    )
    (tmp_path / "conftest.py").symlink_to(speed_table.README.parent / "benchmarks/conftest.py")
    wrong = tmp_path / "wrong.txt"
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", tmp_path, bench]
    done = subprocess.run([*command, "--check", wrong], capture_output=True, text=True)
    assert "1 failed, 1 passed" in done.stdout, done.stdout[-3000:]
    assert wrong.read_text() == "bench_wrong.py::test_op[op N=1 float32 forward vs torch]\n"


def row(ratio, **changes):
    fields = {"op": "bucket_rois", "case": "dispatch N=9", "dtype": "int64", "baseline": "torch"}
    times = {"ours_ms": 1.0, "baseline_ms": ratio, "ratio": ratio, "floor_ms": None}
    return {**fields, "direction": "forward", "threads": 1, **times, **changes}


def lines_of(report, part):
    lines = report.splitlines()
    first = next(k for k, line in enumerate(lines) if part in line)
    return lines[first : first + 3]


def test_targets_tell_met_from_missed():
    on_device = {"device_ms": {"ours": 0.25, "baseline": 2.0}}
    rows = [row(6.0, **on_device), row(5.0)]
    title, first, second = lines_of(targets.report(rows), "bucket_rois | dispatch")
    assert title.startswith("met ")
    assert first.strip() == "6.0x (device alone 8.0x)  dispatch N=9, int64, against torch"
    assert second.strip().startswith("5.0x  dispatch")
    missed = targets.report([row(6.0), row(4.9)])
    assert lines_of(missed, "bucket_rois | dispatch")[0].startswith("missed ")
    assert "not run  >= 4x  dynamic_mask_head" in missed


def test_the_bound_of_a_product_is_a_target_too():
    case = {"op": "deform_conv2d", "case": "N=100 256@14 G=1 NHWC", "dtype": "bfloat16"}
    of_device = {"device_ms": {"ours": 0.0467, "baseline": 9.0, "floor": 0.0346}, "floor_ms": 0.5}
    title, share, *_ = lines_of(targets.report([row(9.0, **case, **of_device)]), "of the 23 us")
    assert title.startswith("met      >= 45% of the 23 us of an H200")
    assert share.strip() == "50%  N=100 256@14 G=1 NHWC; 74% of a plain conv2d"


def test_targets_find_their_cases():
    """Of the files whose cases on a GPU are made without tensors."""
    for stem, what in (("deform_conv2d", 3), ("dynamic_mask_head", 1), ("model", 1)):
        bench = importlib.import_module(f"dynamask.benchmarks.bench_{stem}")
        keys = [targets.key({**vars(c), "baseline": c.baseline_name}) for c in bench.on_gpu_cases()]
        met = {targets.rank(key) for key in keys} - {len(targets.TARGETS)}
        assert len(met) == what, stem


def test_the_table_of_a_gpu_shows_what_has_a_target():
    on_device = {"device_ms": {"ours": 0.25, "baseline": 2.0}}
    result = {"gpu": "H", "cpu": "C", "torch": "2", "commit": "c", "date": "d", "file": "f"}
    shown = speed_table.table({**result, "rows": [row(6.0, **on_device), row(6.0, op="nms")]})
    assert "| 1 (0.25) | torch | 6 (2) | **6.0x** |  |" in shown
    assert "nms" not in shown


def test_every_pattern_of_the_speed_table_finds_a_row():
    rows = [row for result in speed_table.newest() for row in result["rows"]]
    for pattern in speed_table.SHOWN:
        assert speed_table.matching(pattern, rows), pattern


def test_the_readme_shows_the_newest_results():
    readme = speed_table.README.read_text()
    assert speed_table.updated(readme) == readme, "run python -m dynamask.benchmarks.speed_table"
