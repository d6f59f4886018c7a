"""Everything that needs a GPU, in one go: `make gpu` builds, tests, sanitizes and measures.

It takes the torch, torchvision and Triton that the Python running it has, and no network; other
packages that are missing come out of `wheels/`, which `make gpu-wheels` fills where there is one.
A step that fails or takes too long does not stop the next; the summary at the end and the exit
status tell. Logs are in `build/gpu`, and in the folder `$OUT` too, with the results, if it is set.
What is worth most comes first: does it work, how fast is it, and then the other proofs.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build/gpu"
WHEELS = ROOT / "wheels"
RESULTS = ROOT / "benchmarks/results"
ENVIRONMENT = FOLDER / "venv"
PYTHON = str(ENVIRONMENT / "bin/python")
MINUTES = 8.8
STEPS = ("build", "test", "check", "bench", "fallback", "memcheck", "racecheck")

NO_TRITON = {"DYNAMASK_TRITON": "0"}


@dataclass(frozen=True)
class Step:
    """A command with a time limit.

    Attributes:
        name: One of STEPS.
        command: What to run, in the root of the repository.
        seconds: The most it may take, where all steps have MINUTES; in more, more.
        variables: Of its environment, besides the ones that are there.
        why_not: Why it is left out, if it is.
    """

    name: str
    command: list[str]
    seconds: float
    variables: dict[str, str] = field(default_factory=dict)
    why_not: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    name: str
    word: str  # "passed", "failed", "timed out" or "left out"
    seconds: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name:10} {self.word:10} {self.seconds:5.0f} s  {self.note}".rstrip()


def plan(capability: str | None, benchmarks: Sequence[str], seconds: float) -> list[Step]:
    """The steps for a GPU of a compute capability, or for the CPU."""
    pip = [PYTHON, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation"]
    pytest = [PYTHON, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    pytest += ["--continue-on-collection-errors"]  # where a package is missing
    one_thread = {"OMP_NUM_THREADS": "1"}
    in_parallel = []
    if has_xdist():
        in_parallel = ["-n", str(workers()), "-p", "dynamask.benchmarks.lost_gpu"]
    on_gpu = [*pytest, "-m", "gpu"]
    once = [*on_gpu, "-k", "float32", "tests/gpu/test_once.py"]
    build = {"DYNAMASK_BUILD": str(FOLDER / "native"), "DYNAMASK_CUDA": "0"}
    if capability:
        build |= {"TORCH_CUDA_ARCH_LIST": capability, "DYNAMASK_CUDA": "1"}
    where = ["--device", "cuda" if capability else "cpu"]
    wrong = str(FOLDER / "wrong.txt")
    timed = ["--leave-out", wrong, "--seconds", str(seconds), *(["--write"] * bool(capability))]
    tests = [*on_gpu, *in_parallel, "--maxfail=200", "--durations=15", "tests"]
    checks = [*pytest, *in_parallel, *benchmarks, *where, "--check", wrong]
    return [
        Step("build", [*pip, "-v", "-e", "."], 180, build),
        Step("test", tests, 160, one_thread),
        # Triton compiles what is measured, side by side; what is wrong or breaks the device is not
        # measured then
        Step("check", checks, 80, one_thread),
        Step("bench", [*pytest, *benchmarks, *where, *timed], 200),
        # what serves where Triton is missing, which otherwise sees fp64 alone
        Step("fallback", [*on_gpu, *in_parallel, *of_triton()], 80, {**one_thread, **NO_TRITON}),
        sanitizer("memcheck", once, "--report-api-errors", "no"),  # those that torch expects
        sanitizer("racecheck", once),
    ]


def workers() -> int:
    """How many processes share the GPU: most of their time they compile."""
    return max(1, min(12, (os.cpu_count() or 2) * 3 // 4))


def of_triton() -> list[str]:
    """The tests of operators with a Triton kernel."""
    files = {
        path.stem: f"tests/ops/test_{path.stem}.py" for path in (ROOT / "kernels").glob("*.py")
    }
    files = {stem: file for stem, file in sorted(files.items()) if (ROOT / file).exists()}
    return ["-k", " or ".join(files), "tests/gpu", *files.values()]


def has_xdist() -> bool:
    """Whether tests can run side by side."""
    return importlib.util.find_spec("xdist") is not None or any(WHEELS.glob("pytest_xdist-*"))


def sanitizer(tool: str, command: list[str], *more: str) -> Step:
    """A tool of compute-sanitizer over a command, with more options."""
    program = find_sanitizer()
    if program is None:
        return Step(tool, command, 0, why_not="compute-sanitizer is not installed")
    options = ["--tool", tool, "--error-exitcode", "99", "--print-limit", "50", *more]
    # every tensor in an allocation of its own, so that one past its end is seen
    apart = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return Step(tool, [program, *options, *command], 80, apart)


def find_sanitizer() -> str | None:
    """compute-sanitizer on PATH or in a folder of the CUDA toolkit."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), shutil.which("nvcc")]
    folders = [
        Path(home) if Path(home).is_dir() else Path(home).parents[1] for home in homes if home
    ]
    folders += sorted(Path("/usr/local").glob("cuda*"), reverse=True)
    places = [folder / part for folder in folders for part in ("bin", "compute-sanitizer")]
    for place in [None, *map(str, places)]:
        if found := shutil.which("compute-sanitizer", path=place):
            return found
    return None


def compute_capability() -> str | None:
    """Of the GPU that torch finds, such as "9.0"; None if it finds none."""
    code = "import torch; print('%d.%d' % torch.cuda.get_device_capability())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return asked.stdout.strip() or None


def make_environment() -> None:
    """A virtual environment that sees every package of this Python, and the wheels it lacks.

    (`venv --system-site-packages` would hide them if this Python is of an environment itself.)
    """
    if not Path(PYTHON).exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", ENVIRONMENT], check=True)
    packages = next(ENVIRONMENT.glob("lib/python3*/site-packages"))
    seen = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "outside.pth").write_text("\n".join(seen) + "\n")
    missing = [str(wheel) for wheel in missing_wheels(WHEELS.glob("*.whl"))]
    if missing:
        pip = [PYTHON, "-m", "pip", "install", "-q", "--no-index", "--no-deps", *missing]
        subprocess.run(pip)  # without them some files of tests cannot be collected, others can


def missing_wheels(wheels: Iterable[Path]) -> list[Path]:
    """Those of packages that are not installed in any version."""
    installed = {normal(d.metadata["Name"]) for d in importlib.metadata.distributions()}
    return [wheel for wheel in sorted(wheels) if normal(wheel.name.split("-")[0]) not in installed]


def normal(name: str) -> str:
    """The name of a package as all its spellings have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wait_for(process: subprocess.Popen, seconds: float) -> str:
    """How a process ends; too late, it is interrupted, which lets it report, and then killed."""
    try:
        return "passed" if process.wait(seconds) == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return "timed out"


def heed_interrupts() -> None:
    """What a shell starts in the background ignores them, and so does what that starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(step: Step, seconds: float, log: Path) -> Outcome:
    """Runs a step for at most so many seconds, its output into a log."""
    start = time.monotonic()
    own = [str(ENVIRONMENT / "bin"), str(Path(sys.executable).parent)]
    path = os.pathsep.join([*own, os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    variables = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **step.variables}
    with log.open("w") as file:
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=variables,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )
        word = wait_for(process, seconds)
    lines = log.read_text(errors="replace").strip().splitlines()
    return Outcome(step.name, word, time.monotonic() - start, lines[-1].strip() if lines else "")


def go_through(
    steps: Sequence[Step],
    minutes: float = MINUTES,
    runner: Callable[[Step, float, Path], Outcome] = run,
    after: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Runs steps in turn, for so many minutes in all, and prints what becomes of each."""
    end, outcomes = time.monotonic() + 60 * minutes, []
    for step in steps:
        left = end - time.monotonic()
        log = FOLDER / f"{step.name}.log"
        if step.why_not:
            outcome = Outcome(step.name, "left out", note=step.why_not)
        elif left <= 0:
            outcome = Outcome(step.name, "timed out", note="no time was left for it")
        else:
            print(f"{step.name}: {' '.join(step.command)}", flush=True)
            most = step.seconds * max(1.0, minutes / MINUTES)
            outcome = runner(step, min(most, left), log)
        print(outcome, flush=True)
        if outcome.word in ("failed", "timed out") and log.exists():
            print("\n".join(log.read_text(errors="replace").splitlines()[-40:]), flush=True)
        outcomes.append(outcome)
        after(outcome)
    return outcomes


def deliver(folder: Path, outcome: Outcome, since: float) -> None:
    """Copies the log of a step and the results made since a time to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [path for path in RESULTS.glob("*.json") if path.stat().st_mtime >= since]
    for path in [*made, FOLDER / f"{outcome.name}.log"]:
        if path.exists():
            shutil.copy(path, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses, runs, summarises; 0 if no step failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", default=",".join(STEPS), help="some of them, with commas")
    parser.add_argument("--device", default="cuda", help="cpu: try all this where there is no GPU")
    parser.add_argument("--bench", nargs="+", default=["benchmarks"], help="files to measure with")
    parser.add_argument("--seconds", type=float, default=0.1, help="for each case of a benchmark")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all steps together")
    given, start = parser.parse_args(arguments), time.time()
    wanted = given.steps.split(",")
    if unknown := set(wanted) - set(STEPS):
        parser.error(f"expected steps of {', '.join(STEPS)}, got {', '.join(sorted(unknown))}")
    capability = compute_capability() if given.device == "cuda" else None
    if given.device == "cuda" and capability is None:
        parser.error("torch finds no GPU here; --device cpu tries everything without one")
    FOLDER.mkdir(parents=True, exist_ok=True)
    make_environment()
    steps = plan(capability, given.bench, given.seconds)
    folder = os.environ.get("OUT")
    outcomes = go_through(
        [step for step in steps if step.name in wanted],
        given.minutes - (time.time() - start) / 60,  # the first import of torch takes its time
        after=lambda outcome: deliver(Path(folder), outcome, start) if folder else None,
    )
    print("\n" + "\n".join(map(str, outcomes)))
    return int(any(outcome.word in ("failed", "timed out") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
