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


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its options
def pytest_configure(config):
    config.stash[ROWS] = []
    harness.use(config.getoption("--device"))
    config.option.benchmark_timer = "dynamask.benchmarks.harness.clock"
    config.option.benchmark_quiet = True  # one table, ours: it has the ratios


@pytest.fixture
def report(request, benchmark):
    """Checks and times a case, and puts its row into the table at the end of the session."""
    torch.set_num_threads(request.config.getoption("--threads"))

    def rounds(call, between, count):
        benchmark.pedantic(call, setup=between, rounds=count)
        return benchmark.stats.stats.data

    def run(case: harness.Case) -> dict:
        row = harness.measure(case, request.config.getoption("--seconds"), rounds)
        request.config.stash[ROWS].append(row)
        return row

    return run


def pytest_terminal_summary(terminalreporter, config):
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
