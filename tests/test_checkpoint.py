import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from dynamask.checkpoint import (
    DamagedState,
    Meta,
    check_classes,
    fill,
    load_state,
    read_state,
    read_weights,
    save_state,
    save_weights,
)
from dynamask.config import load_config
from dynamask.errors import InputError
from dynamask.files import write_atomic


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def meta(**notes):
    config = load_config(overrides={"optim.lr": 0.25})
    return Meta(config, ["cat", "dög"], [3, 90], notes=notes)


def test_weights_carry_what_is_needed_to_use_them(tmp_path):
    model, path = small(), tmp_path / "w.safetensors"
    save_weights(path, model, meta(step=7))
    tensors, said = read_weights(path)
    assert said.config.optim.lr == 0.25
    assert said.classes == ["cat", "dög"]
    assert said.category_ids == [3, 90]
    assert said.notes == {"step": 7}
    other = small()
    fill(other, tensors, "w")
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


def test_tensors_that_share_memory_or_are_not_contiguous(tmp_path):
    value = torch.arange(24.0).view(2, 3, 4).transpose(0, 2)
    save_weights(tmp_path / "w.safetensors", {"a": value, "b": value}, meta())
    tensors, _ = read_weights(tmp_path / "w.safetensors")
    assert torch.equal(tensors["a"], value)
    assert torch.equal(tensors["b"], value)


def test_all_that_does_not_fit_is_listed_at_once():
    own = small().state_dict()
    given = {k: v for k, v in own.items() if k != "1.weight"}
    given["0.weight"] = torch.zeros(5, 3, 3, 3)
    given["2.bias"] = torch.tensor([1.0, float("nan")])
    given["extra"] = torch.zeros(1)
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        fill(model, given, "my.safetensors")
    text = str(caught.value)
    assert "my.safetensors does not fit the model, 4 tensors" in text
    assert "missing: 1.weight [4]" in text
    assert "shape: 0.weight is [5, 3, 3, 3], the model has [4, 3, 3, 3]" in text
    assert "not finite: 2.bias" in text
    assert "unknown: extra [1]" in text
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_damaged_weights_are_refused(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    save_weights(path, small(), meta())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"w\.safetensors is damaged"):
        read_weights(path)


def test_weights_of_others_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="was not written by dynamask"):
        read_weights(tmp_path / "w.safetensors")


def test_a_pickle_is_never_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "w.safetensors"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match="damaged or no safetensors"):
        read_weights(path)
    save_state(tmp_path, {"a": 1})
    content = bytearray((tmp_path / "last.pt").read_bytes())
    import io
    import json
    import zlib

    buffer = io.BytesIO()
    torch.save({"a": Payload()}, buffer)
    stamp = {"bytes": len(buffer.getvalue()), "crc32": zlib.crc32(buffer.getvalue())}
    head = bytes(content).split(b"\n")[0] + b"\n" + json.dumps(stamp).encode() + b"\n"
    (tmp_path / "last.pt").write_bytes(head + buffer.getvalue())
    with pytest.raises(DamagedState, match="more than plain tensors"):
        read_state(tmp_path / "last.pt")
    assert not (tmp_path / "owned").exists()


def test_another_number_of_classes(tmp_path):
    with pytest.raises(InputError, match=r"trained on 2 classes \(cat, dög\), but shapes has 3"):
        check_classes(meta(), ["a", "b", "c"], "best.safetensors", "shapes")
    check_classes(meta(), ["one", "two"], "best.safetensors", "other names are fine")


def test_state_round_trip_keeps_two(tmp_path):
    for step in range(4):
        save_state(tmp_path, {"step": step, "weights": torch.full((3,), float(step))})
    state, path, passed_over = load_state(tmp_path)
    assert state["step"] == 3
    assert path.name == "last.pt"
    assert passed_over == []
    assert read_state(tmp_path / "previous.pt")["step"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "previous.pt"]


def test_every_damage_is_noticed_and_the_state_before_stands_in(tmp_path):
    save_state(tmp_path, {"step": 1, "weights": torch.rand(50)})
    save_state(tmp_path, {"step": 2, "weights": torch.rand(50)})
    whole = (tmp_path / "last.pt").read_bytes()
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(len(whole), (300,), generator=generator).tolist()
    for n, position in enumerate(positions):
        damaged = bytearray(whole)
        if n % 3 == 0:
            damaged = damaged[:position]
        else:
            damaged[position] ^= 1 << (n % 8)
        (tmp_path / "last.pt").write_bytes(bytes(damaged))
        state, path, passed_over = load_state(tmp_path)
        assert state["step"] == 1
        assert path.name == "previous.pt"
        assert "last.pt" in passed_over[0]


def test_no_state_at_all(tmp_path):
    with pytest.raises(InputError, match="no training state that can be used"):
        load_state(tmp_path)


def test_a_kill_between_the_renames_loses_nothing(tmp_path):
    save_state(tmp_path, {"step": 1})
    save_state(tmp_path, {"step": 2})
    os.replace(tmp_path / "last.pt", tmp_path / "next.pt")
    assert load_state(tmp_path)[0]["step"] == 2
    save_state(tmp_path, {"step": 3})
    assert load_state(tmp_path)[0]["step"] == 3


SAVER = """
import sys, torch
from pathlib import Path
from dynamask.checkpoint import save_state, save_weights, Meta
from dynamask.config import Config
folder = Path(sys.argv[1])
print("go", flush=True)
step = 0
while True:
    step += 1
    weights = torch.full((500_000,), float(step))
    save_state(folder, {"step": step, "weights": weights})
    save_weights(folder / "w.safetensors", {"w": weights},
                 Meta(Config(), ["a"], [1], notes={"step": step}))
    print(step, flush=True)
"""


def test_kill_9_while_saving(tmp_path):
    """Struck at any instant, both files are whole, and no older than the save before."""
    for strike in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        while process.stdout.readline().strip() != "2":
            assert process.poll() is None
        time.sleep(0.003 * strike)
        process.send_signal(signal.SIGKILL)
        done = [line for line in process.stdout.read().split() if line.isdigit()]
        process.wait()
        finished = int(done[-1]) if done else 2
        state, _, _ = load_state(tmp_path)
        assert state["step"] >= finished
        assert (state["weights"] == state["step"]).all()
        tensors, said = read_weights(tmp_path / "w.safetensors")
        assert said.notes["step"] >= finished
        assert (tensors["w"] == said.notes["step"]).all()


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    save_state(tmp_path, {"step": 1})

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_state(tmp_path, {"step": 2})
    assert load_state(tmp_path)[0]["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_write_atomic_honours_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a.txt", "text")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
