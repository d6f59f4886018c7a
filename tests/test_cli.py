# ruff: noqa: E501

import subprocess
import sys

import pytest

from dynamask import cli
from dynamask.errors import InputError


@pytest.mark.parametrize("command", [[], ["train"], ["eval"], ["predict"], ["info"], ["demo"]])
def test_help_does_not_import_torch(command):
    code = f"import sys; from dynamask.cli import main; main({[*command, '--help']})"
    code = f"import atexit, sys\natexit.register(lambda: print('torch' in sys.modules))\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "usage: dynamask" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tain"], "no command 'tain' - did you mean 'train'?"),
        (["train", "--optim.lrr", "1"], "no option '--optim.lrr' in `dynamask train` - did you mean '--optim.lr'?"),
        (["train", "--optim.epoch=1"], "did you mean '--train.epochs'?"),
        (["train", "--optim.lr", "fast"], "optim.lr in the command line is 'fast', expected a number"),
        (["train", "--preset", "r50"], "no preset 'r50'"),
        (["train", "--resume", "nowhere"], "nowhere is no run folder"),
        (["train", "--resume", "--config", "x.yaml"], "--resume takes the config of its run"),
        (["train", "extra"], "no further argument 'extra'"),
        (["eval"], "the following arguments are required: RUN"),
        (["eval", "x", "--split", "test"], "invalid choice: 'test'"),
        (["eval", "nowhere.safetensors"], "no file or run folder 'nowhere.safetensors'"),
        (["predict", "nowhere", "image.jpg"], "no file or run folder 'nowhere'"),
        (["info", "nowhere"], "no file or run folder 'nowhere'"),
        (["info", "--flops", "--model", "yolo"], "no model 'yolo'"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_exits_with_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_our_bugs_exit_with_1_and_a_traceback(monkeypatch, capsys):
    def broken(*arguments, **settings):
        raise RuntimeError("index out of nowhere")

    monkeypatch.setattr("dynamask.cli.load_config", broken)
    assert cli.main(["train"]) == 1
    error = capsys.readouterr().err
    assert "index out of nowhere" in error
    assert "a bug of ours" in error


def test_input_errors_from_deep_inside_exit_with_2(monkeypatch, capsys):
    def refuse(*arguments, **settings):
        raise InputError("data: no images in my_coco")

    monkeypatch.setattr("dynamask.cli.load_config", refuse)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "dynamask: data: no images in my_coco\n"


def test_print_config(capsys):
    assert cli.main(["train", "--data", "my_coco", "--print-config", "--optim.lr=3e-4"]) == 0
    out = capsys.readouterr().out
    assert "source: my_coco" in out
    assert "lr: 0.0003" in out
