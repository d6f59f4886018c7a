from pathlib import Path

import pytest
import torch

from dynamask.benchmarks import harness, targets

ROWS = pytest.StashKey[list]()


def pytest_addoption(parser):
    group = parser.getgroup("dynamask benchmarks")
    group.addoption("--device", default="cpu", help="where tensors are made: cpu or cuda")
    group.addoption("--threads", type=int, default=1, help="threads of torch and of our kernels")
    group.addoption("--seconds", type=float, default=2.0, help="time for each case")
    group.addoption("--write", action="store_true", help="record the rows in benchmarks/results")
    group.addoption("--check", type=Path, help="time nothing; this file gets the cases that fail")
    group.addoption("--leave-out", type=Path, help="the file of a --check before: what not to time")


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its options
def pytest_configure(config):
    config.stash[ROWS] = []
    harness.use(config.getoption("--device"))
    config.option.benchmark_timer = "dynamask.benchmarks.harness.clock"
    config.option.benchmark_quiet = True  # one table, ours: it has the ratios


def pytest_collection_modifyitems(config, items):
    """Leaves out what failed before; on a GPU, what has a target comes first."""
    file = config.getoption("--leave-out")
    wrong = file.read_text().splitlines() if file and file.exists() else ()
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in wrong])
    items[:] = [item for item in items if item.nodeid not in wrong]
    if harness.on_gpu():
        items.sort(key=rank)


def rank(item):
    case = item.callspec.params["case"]
    if not isinstance(case, harness.Case):  # the mark of a file without cases
        return len(targets.TARGETS)
    return targets.rank(targets.key({**vars(case), "baseline": case.baseline_name}))


@pytest.fixture
def report(request, benchmark):
    """Checks and times a case, and puts its row into the table at the end of the session."""
    option = request.config.getoption
    torch.set_num_threads(option("--threads"))

    def rounds(call, between, count):
        benchmark.pedantic(call, setup=between, rounds=count)
        return benchmark.stats.stats.data

    def run(case: harness.Case) -> None:
        if option("--check"):
            case.check()
            return
        rows = request.config.stash[ROWS]
        rows.append(harness.measure(case, option("--seconds"), rounds))
        if option("--write"):  # at once: who knows what the next case does to the device
            harness.write(rows)

    return run


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--check"):
        failed = [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]
        names = sorted({report.nodeid for report in failed})
        config.getoption("--check").write_text("".join(f"{name}\n" for name in names))
    rows = config.stash[ROWS]
    if not rows:
        return
    terminalreporter.write_sep("=", "benchmarks (medians)")
    terminalreporter.write_line(harness.table(rows))
    if harness.on_gpu():
        terminalreporter.write_sep("=", "targets on a GPU")
        terminalreporter.write_line(targets.report(rows))
    if config.getoption("--write"):
        terminalreporter.write_line(f"written to {harness.write(rows)}")
