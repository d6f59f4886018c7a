"""`make tune`, interpreted: every kind of table is replaced, and what is wrong is told."""

import json
from multiprocessing.pool import ThreadPool

import pytest
import torch

from dynamask.benchmarks import tune
from dynamask.benchmarks.tune_subjects import SUBJECTS

KINDS = {  # the last subject of each kind
    (subject.function, subject.table, subject.options): name for name, subject in SUBJECTS.items()
}
NO_BLOCK = {"PIXELS": 48, "NUMBERS": 48, "MAX_BLOCK": 48}  # is no power of two


@pytest.fixture
def shortened(monkeypatch):
    """Leaves a subject its first candidate and one that cannot be."""

    def shorten(name):
        subject = SUBJECTS[name]
        first = subject.candidates[0]
        wrong = {k: NO_BLOCK[k] for k in first if k in NO_BLOCK}
        assert wrong
        monkeypatch.setitem(SUBJECTS, name, subject._replace(candidates=[first, wrong]))
        return first

    yield shorten
    tune.prepared.cache_clear()


@pytest.mark.parametrize("name", KINDS.values())
def test_times_what_is_right_and_tells_what_is_not(name, shortened):
    first = shortened(name)
    before = {k: v for k, v in vars(SUBJECTS[name].home).items() if not k.startswith("__")}
    with ThreadPool(1) as pool:
        entry, candidate, wrong = tune.tune(name, pool)
    assert entry["relative"] == 1
    assert candidate["relative"] > 0
    assert candidate["sizes"] != entry["sizes"]
    assert {k: candidate["sizes"][k] for k in first if k in entry["sizes"]}.items() <= first.items()
    assert "power of" in wrong["why_not"]
    assert before.items() <= vars(SUBJECTS[name].home).items()  # all is as it was


def test_writes_and_prints(shortened, tmp_path, monkeypatch, capsys):
    name = KINDS["class_logits", None, ()]
    shortened(name)
    monkeypatch.setenv("OUT", str(tmp_path))
    before = torch.get_default_device()
    tune.main(["--only", name])
    assert torch.get_default_device() == before
    shown = capsys.readouterr().out
    assert "CHANNELS=32 PIXELS=64  <- the table's entry" in shown
    assert "1 x " in shown
    (file,) = tmp_path.glob("tune-cpu-*.json")
    rows = json.loads(file.read_text())["tables"][name]
    assert [("why_not" in row) for row in rows] == [False, False, True]


@pytest.mark.parametrize(
    ("got", "why"),
    [(1.1, "differs by 0.025 of"), (float("nan"), "leaves other memory")],
)
def test_another_result_is_seen(got, why):
    expected = torch.tensor([1.0, -4.0, float("nan")])
    tune.assert_alike([expected], [expected], 0.0)
    other = expected.clone()
    other[0] = got
    with pytest.raises(AssertionError, match=why):
        tune.assert_alike([other], [expected], 0.02)
