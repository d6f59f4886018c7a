# ruff: noqa: E501

import pytest
import yaml

from dynamask.config import Config, config_from_dict, load_config, options, preset_names
from dynamask.config_values import did_you_mean
from dynamask.errors import InputError


def written(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_each_source_overrides_the_one_before(tmp_path):
    file = written(tmp_path, "optim:\n  lr: 0.5\n  momentum: 0.8\n")
    config = load_config("r50-coco-1x", file, {"optim.momentum": "0.7"})
    assert config.train.seed == Config().train.seed  # nobody speaks of it
    assert config.train.batch_size == 16  # the preset
    assert config.optim.lr == 0.5  # the file, over the preset's 0.02
    assert config.optim.momentum == 0.7  # the flag, over the file


@pytest.mark.parametrize("name", preset_names())
def test_presets_load(name):
    assert load_config(name).model.name


def test_survives_its_own_yaml_and_json(tmp_path):
    config = load_config(
        "r50-coco-1x", overrides={"model.fixed_size": 28, "model.options": "{a: 1}"}
    )
    assert load_config(file=written(tmp_path, config.to_yaml())) == config
    assert config_from_dict(config.to_dict(), "a header") == config


def test_every_option_says_what_it_is_for():
    for option in options().values():
        assert len(option.help) > 5, option.name
    assert options()["optim.lr"].help.startswith("Learning rate")


@pytest.mark.parametrize(
    ("given", "option", "value"),
    [
        ("1e-3", "optim.lr", 1e-3),
        ("3", "optim.lr", 3.0),
        ("1e2", "train.epochs", 100),
        ("null", "train.max_steps", None),
        ("", "train.max_steps", None),
        ("7", "train.max_steps", 7),
        ("segm,bbox", "eval.metrics", ["segm", "bbox"]),
        ("[640, 800]", "data.short_sides", [640, 800]),
        ("640", "data.short_sides", [640]),
        ("2026", "train.name", "2026"),
        ("{size: 3}", "model.options", {"size": 3}),
    ],
)
def test_flags_are_read_as_yaml(given, option, value):
    config = load_config(overrides={option: given})
    section, key = option.split(".")
    assert getattr(getattr(config, section), key) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  epoch: 3\n", r"no option 'optim.epoch' in .*run.yaml line 2 - did you mean 'train.epochs'"),
        ("optm:\n  lr: 3\n", r"no option 'optm' in .* line 1"),
        ("train:\n  epochs: many\n", r"train.epochs in .* line 2 is 'many', expected a whole number"),
        ("train:\n  epochs: 1.5\n", r"is 1.5, expected a whole number"),
        ("train:\n  epochs: true\n", r"is True, expected a whole number"),
        ("optim:\n  lr: .nan\n", r"is nan, expected a number"),
        ("optim:\n  name: adam\n", r"is 'adam', expected sgd or adamw"),
        ("optim:\n  lr: 1\n  lr: 2\n", r"line 3: 'optim.lr' is given twice"),
        ("optim: 3\n", r"line 1: expected 'optim' to hold"),
        ("- a\n", r"expected the file to hold"),
        ("optim: [", r"run.yaml is no YAML"),
        ("optim:\n  lr: !!python/object/apply:os.system [id]\n", r"is no YAML"),
        ("train:\n  batch_size: 0\n", r"train.batch_size is 0, expected at least 1"),
        ("data:\n  flip: 2\n", r"data.flip is 2.0, expected 0 to 1"),
        ("data:\n  short_sides: []\n", r"data.short_sides is empty"),
    ],
)  # fmt: skip
def test_says_what_is_wrong_and_where(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_config(file=written(tmp_path, text))


def test_empty_sections_and_files_change_nothing(tmp_path):
    assert load_config(file=written(tmp_path, "")) == Config()
    assert load_config(file=written(tmp_path, "optim:\ntrain:\n")) == Config()


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*nowhere\.yaml"):
        load_config(file=tmp_path / "nowhere.yaml")


def test_preset_that_is_not_there():
    with pytest.raises(InputError, match="no preset 'r50-coco' - did you mean 'r50-coco-1x'"):
        load_config("r50-coco")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("optim.epoch", "train.epochs"), ("optim.lrr", "optim.lr"), ("train.lr", "optim.lr"),
     ("batch_size", "train.batch_size"), ("dat.source", "data.source")],
)  # fmt: skip
def test_suggestions(given, meant):
    assert did_you_mean(given, list(options())) == f" - did you mean '{meant}'?"


def test_no_suggestion_for_what_is_like_nothing():
    assert did_you_mean("xyzzy", list(options())) == ""


def test_yaml_is_plain():
    assert yaml.safe_load(Config().to_yaml())["optim"]["name"] == "adamw"
