"""What a run is made of: one tree of dataclasses, whose defaults stand here and nowhere else.

A value comes from, each overriding the one before: the defaults, a preset (``dynamask/presets``),
a YAML file, dotted flags (``optim.lr=0.01``). There is no inheritance between files.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from dynamask.config_values import convert, did_you_mean
from dynamask.errors import InputError

PRESETS = Path(__file__).parent / "presets"


@dataclass
class ModelConfig:
    """The network.

    Attributes:
        name: Function of dynamask.models.presets that builds it.
        weights: Where to start from: a run folder, a .safetensors file, or "tiny-shapes", which
            comes with the package. Empty: from scratch.
        backbone_weights: A torchvision state dict (.pth or .safetensors) for the backbone alone.
        budget: Mean compute an instance may spend on its mask, in GMACs (`dynamask info --flops`
            prints what each size costs). Empty: the paper's 1.0, scaled to the size of the head.
        lambda2: Weight of the budget and entropy losses.
        fixed_size: Give every instance this mask size instead of choosing. Empty: choose.
        options: Further keyword arguments of the function.
    """

    name: str = "dynamask_tiny"
    weights: str | None = None
    backbone_weights: str | None = None
    budget: float | None = None
    lambda2: float = 0.4
    fixed_size: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataConfig:
    """The images.

    Attributes:
        source: A folder in a COCO layout, or one of shapes-mini, shapes, shapes-hard.
        short_sides: Training images are resized to one of these, by their shorter side, in pixels.
        max_side: Longest side an image may get, in pixels.
        eval_short_side: Shorter side of images in evaluation and prediction, in pixels.
        flip: Probability of a horizontal flip.
        train_limit: Use the first so many training images only.
        workers: Processes that read images. 0: the training process itself.
        on_error: What to do with annotations that cannot be used: stop, or skip them.
        bad_image_budget: Share of the training images that may turn out to be unreadable before
            training stops. Each is named in the log.
    """

    source: str = "shapes-mini"
    short_sides: list[int] = field(default_factory=lambda: [160, 176, 192, 208])
    max_side: int = 320
    eval_short_side: int = 192
    flip: float = 0.5
    train_limit: int | None = None
    workers: int = 0
    on_error: Literal["stop", "skip"] = "stop"
    bad_image_budget: float = 0.0


@dataclass
class OptimConfig:
    """The steps.

    Attributes:
        name: The optimizer: sgd (with momentum) or adamw.
        lr: Learning rate at the top of the schedule, for the batch size given.
        momentum: Of sgd.
        weight_decay: Not applied to biases and normalisation.
        warmup_steps: Steps in which the learning rate rises linearly, at the start of each phase.
        warmup_factor: Share of lr it rises from.
        schedule: After the warm-up: step (times gamma at each milestone), cosine (to zero), or
            constant.
        milestones: For step: where in a phase, as shares of its length.
        gamma: For step: the factor.
        clip_norm: Longest gradient, in L2. 0: not clipped.
        accumulate: Batches whose gradients make one step.
        ema: Decay of the moving average of the weights that is evaluated and saved. 0: none.
    """

    name: Literal["sgd", "adamw"] = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int = 30
    warmup_factor: float = 0.001
    schedule: Literal["step", "cosine", "constant"] = "cosine"
    milestones: list[float] = field(default_factory=lambda: [8 / 12, 11 / 12])
    gamma: float = 0.1
    clip_norm: float = 10.0
    accumulate: int = 1
    ema: float = 0.99


@dataclass
class TrainConfig:
    """The run.

    Attributes:
        phase1_epochs: Epochs without the resolution switch, all mask sizes trained.
        epochs: Epochs after that, all modules, with the learning rate schedule started anew.
        batch_size: Images in a batch.
        max_steps: Stop after so many steps in all, however many epochs that is.
        seed: Of everything random. The order of the images follows from it alone.
        device: cpu, cuda, cuda:1, or auto: the first GPU if there is one.
        precision: Of activations: fp32 or bf16.
        save_every: Steps between two saves of the training state.
        log_every: Seconds between two lines of progress where there is no terminal.
        nan_limit: Steps in a row with a loss or gradient that is not finite before training stops.
            Each is skipped and its batch written to the run folder.
        out: Folder the run folder is made in.
        name: Last part of the run folder's name. Empty: made from data and model.
    """

    phase1_epochs: int = 1
    epochs: int = 12
    batch_size: int = 4
    max_steps: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    save_every: int = 100
    log_every: float = 10.0
    nan_limit: int = 5
    out: str = "runs"
    name: str | None = None


@dataclass
class EvalConfig:
    """The measurement.

    Attributes:
        every: Epochs between two evaluations. 0: once, at the end.
        split: val, or train: the images trained on.
        metrics: Which of bbox, segm, boundary.
        batch_size: Images in a batch.
        limit: Use the first so many images only.
        score: Predictions below this score are left out of pictures (never out of metrics).
        images: Pictures of predictions put into the run folder.
    """

    every: int = 0
    split: Literal["train", "val"] = "val"
    metrics: list[Literal["bbox", "segm", "boundary"]] = field(
        default_factory=lambda: ["bbox", "segm", "boundary"]
    )
    batch_size: int = 4
    limit: int | None = None
    score: float = 0.5
    images: int = 8


@dataclass
class Config:
    """Everything a run is made of."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None)


@dataclass(frozen=True)
class Option:
    """One leaf of the tree: its dotted name, type, default and what it is for."""

    name: str
    type: Any
    default: Any
    help: str


def options() -> dict[str, Option]:
    """Every option by its dotted name, in the order of the tree."""
    found = {}
    for section, section_type in get_type_hints(Config).items():
        about = _attribute_docs(section_type)
        types, default = get_type_hints(section_type), section_type()
        for leaf in dataclasses.fields(section_type):
            name = f"{section}.{leaf.name}"
            found[name] = Option(
                name, types[leaf.name], getattr(default, leaf.name), about[leaf.name]
            )
    return found


def load_config(
    preset: str | None = None,
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    base: Config | None = None,
) -> Config:
    """Defaults < preset < file < overrides.

    Args:
        preset: Name of a file in ``dynamask/presets``, without its suffix.
        file: A YAML file of the shape of :class:`Config`; what it leaves out keeps its value.
        overrides: Values by dotted name; a string is read as YAML would read it.
        base: Stands for the defaults; it is not changed.

    Raises:
        InputError: for an unknown option (with the nearest one), a value of the wrong type, a file
            that cannot be read. Names the file and the line.
    """
    config = Config() if base is None else copy.deepcopy(base)
    if preset is not None:
        _apply(config, _read_yaml(_preset_file(preset)))
    if file is not None:
        _apply(config, _read_yaml(Path(file)))
    if overrides:
        _apply(config, ((name, value, "the command line") for name, value in overrides.items()))
    _check(config)
    return config


def config_from_dict(values: Mapping[str, Any], where: str) -> Config:
    """The config written by :meth:`Config.to_dict`; ``where`` it came from is for errors."""
    config = Config()
    leaves = (
        (f"{section}.{key}", value, where)
        for section, entries in values.items()
        for key, value in entries.items()
    )
    _apply(config, leaves)
    _check(config)
    return config


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _preset_file(name: str) -> Path:
    path = PRESETS / f"{name}.yaml"
    if name not in preset_names():
        hint = did_you_mean(name, preset_names()) or f"; there are {', '.join(preset_names())}"
        raise InputError(f"config: no preset {name!r}{hint}")
    return path


def _read_yaml(path: Path) -> Iterable[tuple[str, Any, str]]:
    """(dotted name, value, where it stands) of every leaf of a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config: cannot read {path}: {error}") from error
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return []
        return list(_leaves(root, "", path, loader, 2))
    except yaml.YAMLError as error:
        raise InputError(f"config: {path} is no YAML: {error}") from error


def _leaves(
    node: yaml.Node, prefix: str, path: Path, loader: yaml.SafeLoader, depth: int
) -> Iterable[tuple[str, Any, str]]:
    where = f"{path} line {node.start_mark.line + 1}"
    if depth == 0:
        yield prefix, loader.construct_object(node, deep=True), where
        return
    if not isinstance(node, yaml.MappingNode):
        if isinstance(node, yaml.ScalarNode) and node.value == "":
            return
        name = f"'{prefix}'" if prefix else "the file"
        raise InputError(f"config: {where}: expected {name} to hold 'option: value' lines")
    seen = set()
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node))
        name, line = f"{prefix}.{key}" if prefix else key, key_node.start_mark.line + 1
        if key in seen:
            raise InputError(f"config: {path} line {line}: '{name}' is given twice")
        seen.add(key)
        if depth == 2 and key not in get_type_hints(Config):
            raise unknown_option(name, f"{path} line {line}")
        yield from _leaves(value_node, name, path, loader, depth - 1)


def _apply(config: Config, leaves: Iterable[tuple[str, Any, str]]) -> None:
    known = options()
    for name, value, where in leaves:
        if name not in known:
            raise unknown_option(name, where)
        section, key = name.split(".")
        setattr(getattr(config, section), key, convert(value, known[name].type, name, where))


def unknown_option(name: str, where: str) -> InputError:
    """The refusal of an option nobody knows, with the one that was probably meant."""
    hint = did_you_mean(name, list(options())) or "; `dynamask train --help` lists them"
    return InputError(f"config: no option '{name}' in {where}{hint}")


def _check(config: Config) -> None:
    """Raises InputError for values of the right type that make no sense."""
    at_least = {
        "train.batch_size": 1,
        "train.epochs": 0,
        "train.phase1_epochs": 0,
        "train.save_every": 1,
        "train.nan_limit": 1,
        "train.max_steps": 1,
        "eval.batch_size": 1,
        "eval.every": 0,
        "eval.limit": 1,
        "data.workers": 0,
        "data.train_limit": 1,
        "data.max_side": 1,
        "data.eval_short_side": 1,
        "optim.accumulate": 1,
        "optim.lr": 0,
        "optim.warmup_steps": 0,
        "optim.clip_norm": 0,
    }
    within_one = ("data.flip", "data.bad_image_budget", "optim.ema", "eval.score")
    for name, least in at_least.items():
        value = _get(config, name)
        if value is not None and value < least:
            raise InputError(f"config: {name} is {value}, expected at least {least}")
    for name in within_one:
        if not 0 <= _get(config, name) <= 1:
            raise InputError(f"config: {name} is {_get(config, name)}, expected 0 to 1")
    if not config.data.short_sides or min(config.data.short_sides) < 1:
        raise InputError("config: data.short_sides is empty or has a side below 1 pixel")
    if not config.eval.metrics:
        raise InputError("config: eval.metrics is empty; choose from bbox, segm, boundary")


def _get(config: Config, name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


def _attribute_docs(section_type: type) -> dict[str, str]:
    """Name -> text of the "Attributes:" part of a docstring."""
    text = inspect.getdoc(section_type) or ""
    _, _, block = text.partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", block, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", about) for name, about in entries}
