"""What `make gpu` does with its steps, without a GPU."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dynamask.benchmarks import gpu, lost_gpu
from dynamask.benchmarks.gpu import Outcome, Step


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    return tmp_path


def python(code, name="test", seconds=60.0):
    return Step(name, [sys.executable, "-c", code], seconds)


def test_goes_on_after_a_failure(capfd):
    steps = [
        python("print('no'); raise SystemExit(3)", "build"),
        Step("memcheck", ["none"], 1, why_not="it is not there"),
        python("print('one'); print('two')", "bench"),
    ]
    outcomes = gpu.go_through(steps)
    assert [o.word for o in outcomes] == ["failed", "left out", "passed"]
    assert [o.note for o in outcomes] == ["no", "it is not there", "two"]
    assert "bench" in capfd.readouterr().out


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_a_late_step_may_still_report(folder, handler):
    code = "import time\ntry: time.sleep(600)\nexcept KeyboardInterrupt: print('reported')"
    before = signal.signal(signal.SIGINT, handler)  # ignored, as in the background of a shell
    try:
        (outcome,) = gpu.go_through([python(code, seconds=5)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.word == "timed out"
    assert outcome.seconds < 600
    assert (folder / "test.log").read_text().strip() == "reported"


def test_all_steps_share_the_time():
    seen = []

    def runner(step, seconds, log):
        seen.append(seconds)
        return Outcome(step.name, "passed")

    steps = [python("", seconds=30), python("", seconds=3600)]
    gpu.go_through(steps, gpu.MINUTES, runner)
    assert seen == pytest.approx([30, 60 * gpu.MINUTES], rel=0.01)
    for minutes, first in ((2 * gpu.MINUTES, 60), (gpu.MINUTES / 4, 30)):
        seen.clear()
        gpu.go_through(steps, minutes, runner)
        assert seen == pytest.approx([first, 60 * minutes], rel=0.01)
    assert [o.word for o in gpu.go_through(steps, 0.0, runner)] == ["timed out"] * 2


def test_the_plan(monkeypatch):
    monkeypatch.setattr(gpu, "find_sanitizer", lambda: None)
    steps = {step.name: step for step in gpu.plan("9.0", ["benchmarks"], 0.2)}
    assert tuple(steps) == gpu.STEPS
    assert steps["build"].variables["DYNAMASK_CUDA"] == "1"
    assert steps["racecheck"].why_not == "compute-sanitizer is not installed"
    assert steps["build"].variables["TORCH_CUDA_ARCH_LIST"] == "9.0"
    bench, check = (steps[name].command for name in ("bench", "check"))
    assert bench[bench.index("--device") + 1] == "cuda"
    assert "--write" in bench
    assert bench[bench.index("--leave-out") + 1] == check[check.index("--check") + 1]
    without = gpu.plan(None, ["benchmarks"], 0.2)
    assert not any("--write" in step.command for step in without)
    assert without[0].variables["DYNAMASK_CUDA"] == "0"  # kernels for six architectures take long
    for path in (part for step in steps.values() for part in step.command if "/" in part):
        made = path == gpu.PYTHON or Path(path).parent == gpu.FOLDER
        assert made or (gpu.ROOT / path).exists(), path


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("memcheck", "test_agrees_with_the_cpu[torch.float32-nms]"),
        ("fallback", "test_agrees_with_the_cpu[torch.bfloat16-deform_conv2d]"),
    ],
)
def test_a_step_finds_its_tests(monkeypatch, name, test):
    monkeypatch.setattr(gpu, "has_xdist", lambda: False)
    (step,) = (step for step in gpu.plan("9.0", [], 0.1) if step.name == name)
    options = step.command[step.command.index("pytest") + 1 :]
    command = [sys.executable, "-m", "pytest", *options, "--collect-only"]
    done = subprocess.run(command, cwd=gpu.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert test in done.stdout


def test_finds_the_sanitizer_in_the_toolkit(tmp_path, monkeypatch):
    tool = tmp_path / "cuda/bin/compute-sanitizer"
    tool.parent.mkdir(parents=True)
    tool.write_text("")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert gpu.find_sanitizer() == str(tool)
    step = gpu.sanitizer("racecheck", ["x"], "--more")
    assert step.command[:3] == [str(tool), "--tool", "racecheck"]
    assert step.command[-2:] == ["--more", "x"]


def test_takes_only_the_wheels_of_what_is_missing():
    wheels = [Path("PyTest-9.0-py3-none-any.whl"), Path("no_such_package-1-py3-none-any.whl")]
    assert gpu.missing_wheels(wheels) == wheels[1:]


def test_delivers_logs_and_new_results_after_each_step(folder, tmp_path, monkeypatch):
    results = tmp_path / "results"
    results.mkdir()
    (results / "gpu.json").write_text("{}")
    monkeypatch.setattr(gpu, "RESULTS", results)
    out, seen = tmp_path / "out", []

    def after(outcome):
        gpu.deliver(out, outcome, since=0)
        seen.append({path.name for path in out.iterdir()})

    gpu.go_through([python("", "test"), python("", "bench")], after=after)
    assert seen == [{"test.log", "gpu.json"}, {"test.log", "bench.log", "gpu.json"}]


def test_a_worker_with_a_lost_gpu_makes_room(monkeypatch):
    def lost():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    ended = []
    monkeypatch.setattr(lost_gpu.os, "_exit", ended.append)
    monkeypatch.setattr(lost_gpu.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(lost_gpu.torch.cuda, "synchronize", lost)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    lost_gpu.pytest_runtest_logfinish()
    assert not ended
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
    lost_gpu.pytest_runtest_logfinish()
    assert ended == [1]
    monkeypatch.setattr(lost_gpu.torch.cuda, "synchronize", lambda: None)
    lost_gpu.pytest_runtest_logfinish()
    assert ended == [1]


@pytest.mark.parametrize("steps", ["nothing", "test,nothing"])
def test_refuses_an_unknown_step(steps, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--steps", steps])
    assert "expected steps of build, test" in capsys.readouterr().err


def test_says_that_there_is_no_gpu(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "compute_capability", lambda: None)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "torch finds no GPU here; --device cpu tries" in capsys.readouterr().err
