"""Weights that carry what is needed to use them, and training states that a kill cannot break.

Weights are safetensors: no code runs on loading, and the header holds the config, the classes and
the version. A training state is what `torch.save` writes behind a line with its length and CRC, so
damage is noticed; the state before it is kept and stands in.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

import dynamask
from dynamask.config import Config, config_from_dict
from dynamask.errors import InputError
from dynamask.files import sync_folder, write_atomic

if TYPE_CHECKING:
    from dynamask.models.detector import Detector

BUNDLED = Path(__file__).parent / "weights"
_MAGIC = b"DYNAMASK-STATE-1\n"


@dataclass
class Meta:
    """What a weights file says about itself.

    Attributes:
        config: The config of the run that made it.
        classes: Class names by contiguous label.
        category_ids: Category ids of the data set by contiguous label.
        version: Of dynamask.
        notes: Whatever the writer added: step, metrics.
    """

    config: Config
    classes: list[str]
    category_ids: list[int]
    version: str = dynamask.__version__
    notes: dict[str, Any] = field(default_factory=dict)


class DamagedState(InputError):
    """A training state that is not what was written."""


def save_weights(path: str | Path, model: nn.Module | dict[str, Tensor], meta: Meta) -> None:
    """Writes the state dict of ``model`` with ``meta`` in the header, atomically."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    # clones, because safetensors refuses tensors that share memory
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    header = {
        "format": "dynamask",
        "version": meta.version,
        "config": json.dumps(meta.config.to_dict()),
        "classes": json.dumps(meta.classes),
        "category_ids": json.dumps(meta.category_ids),
        "notes": json.dumps(meta.notes),
    }
    write_atomic(path, save(tensors, header))


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], Meta]:
    """The tensors of a weights file and what it says about itself.

    Raises:
        InputError: no such file, damaged, or not written by dynamask.
    """
    path = find_weights(path)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"weights: {path} is damaged or no safetensors file ({error}); fix: take the other "
            "file of its run (best or last), or train again"
        ) from error
    if header.get("format") != "dynamask":
        raise InputError(
            f"weights: {path} was not written by dynamask: its header has no config and classes"
        )
    meta = Meta(
        config_from_dict(json.loads(header["config"]), f"the header of {path}"),
        json.loads(header["classes"]),
        json.loads(header["category_ids"]),
        header["version"],
        json.loads(header["notes"]),
    )
    return tensors, meta


def find_weights(source: str | Path) -> Path:
    """The weights file that a run folder, a file or a bundled name stands for.

    Raises:
        InputError: if there is none.
    """
    path = Path(source)
    if path.is_dir():
        for name in ("best", "last"):
            if (found := path / "weights" / f"{name}.safetensors").exists():
                return found
        raise InputError(f"weights: {path} is no run folder: it has no weights/*.safetensors")
    if path.is_file():
        return path
    bundled = BUNDLED / f"{source}.safetensors"
    if bundled.is_file():
        return bundled
    names = ", ".join(sorted(p.stem for p in BUNDLED.glob("*.safetensors"))) or "none"
    raise InputError(
        f"weights: no file or run folder {str(source)!r}, and no weights of that name come with "
        f"the package (there are: {names})"
    )


def load_model(source: str | Path) -> tuple[Detector, Meta]:
    """The network of a weights file, run folder or bundled name, in evaluation mode.

    Raises:
        InputError: if there is no such file, it is damaged, or does not fit the network it names.
    """
    tensors, meta = read_weights(source)
    model = build_model(meta.config, len(meta.classes))
    fill(model, tensors, str(source))
    return model.eval(), meta


def build_model(config: Config, num_classes: int) -> Detector:
    """The network a config asks for, freshly initialised."""
    from dynamask.models import presets
    from dynamask.models.dynamic_mask_head import DynamicMaskHead

    if config.model.name not in presets.PRESETS:
        known = ", ".join(presets.PRESETS)
        raise InputError(f"config: no model {config.model.name!r}; there are {known}")
    build = presets.PRESETS[config.model.name]
    try:
        model = build(num_classes, **config.model.options)
    except TypeError as error:
        raise InputError(f"config: model.options do not fit {config.model.name}: {error}") from None
    if isinstance(model.mask_branch, DynamicMaskHead):
        model.mask_branch.lambda2 = config.model.lambda2
        if config.model.budget is not None:
            model.mask_branch.budget = config.model.budget
    if config.model.fixed_size is not None:
        choose_mask_size(model, config.model.fixed_size)
    return model


def choose_mask_size(model: Detector, size: int | None) -> None:
    """Gives every instance a mask of ``size``, or with None lets the switch choose again.

    Raises:
        InputError: if the model has no such size, or no switch.
    """
    selector = getattr(model.mask_branch, "selector", None)
    if selector is None:
        raise InputError("mask size: this model has no switch, all its masks are of one size")
    if size is not None and size not in selector.sizes:
        sizes = ", ".join(map(str, selector.sizes))
        raise InputError(f"mask size: {size} is none of {sizes}")
    selector.mode = "dynamic" if size is None else f"fixed={size}"


def fill(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Loads ``tensors`` into ``model``, all of them or none.

    Raises:
        InputError: one that lists every missing, unknown, misshapen and non-finite tensor.
    """
    own = model.state_dict()
    faults = [f"missing: {key} {list(own[key].shape)}" for key in own if key not in tensors]
    faults += [f"unknown: {key} {list(tensors[key].shape)}" for key in tensors if key not in own]
    for key in own.keys() & tensors.keys():
        if own[key].shape != tensors[key].shape:
            have, want = list(tensors[key].shape), list(own[key].shape)
            faults.append(f"shape: {key} is {have}, the model has {want}")
        elif tensors[key].is_floating_point() and not torch.isfinite(tensors[key]).all():
            faults.append(f"not finite: {key}")
    if faults:
        listed = "\n  ".join(sorted(faults))
        raise InputError(
            f"weights: {source} does not fit the model, {len(faults)} tensors:\n  {listed}\n"
            "fix: build the model with the config in the file's header (`dynamask info FILE`)"
        )
    model.load_state_dict(tensors)


def check_classes(meta: Meta, classes: list[str], source: str, data: str) -> None:
    """Raises InputError if weights were made for another number of classes than the data has."""
    if len(meta.classes) != len(classes):
        raise InputError(
            f"weights: {source} was trained on {len(meta.classes)} classes "
            f"({_few(meta.classes)}), but {data} has {len(classes)} ({_few(classes)}); "
            "fix: use the data set it was trained on, or train anew without these weights"
        )


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Writes ``state/last.pt`` and keeps the one before as ``state/previous.pt``.

    Raises:
        OSError: disk full, no permission. What was there is intact.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    stamp = json.dumps({"bytes": len(content), "crc32": zlib.crc32(content)}).encode()
    last, previous = folder / "last.pt", folder / "previous.pt"
    fresh = folder / "next.pt"
    write_atomic(fresh, _MAGIC + stamp + b"\n" + content)
    # a kill between the two renames leaves next.pt and previous.pt, and load_state reads both
    if last.exists():
        os.replace(last, previous)
    os.replace(fresh, last)
    sync_folder(folder)


def load_state(folder: Path) -> tuple[dict[str, Any], Path, list[str]]:
    """The newest valid training state of a folder, its file, and why newer ones were passed over.

    Raises:
        InputError: if there is none.
    """
    passed_over: list[str] = []
    for name in ("next.pt", "last.pt", "previous.pt"):
        path = folder / name
        if not path.exists():
            continue
        try:
            return read_state(path), path, passed_over
        except DamagedState as error:
            passed_over.append(str(error))
    why = "\n  ".join(passed_over) or "it is empty"
    raise InputError(f"resume: no training state that can be used in {folder}:\n  {why}")


def read_state(path: Path) -> dict[str, Any]:
    """A training state, checked byte by byte before anything of it is used."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DamagedState(f"{path}: {error}") from error
    if not raw.startswith(_MAGIC):
        raise DamagedState(f"{path}: not a training state of dynamask")
    line, _, content = raw[len(_MAGIC) :].partition(b"\n")
    try:
        stamp = json.loads(line)
        whole = stamp["bytes"] == len(content) and stamp["crc32"] == zlib.crc32(content)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedState(f"{path}: its first lines are damaged") from error
    if not whole:
        raise DamagedState(f"{path}: damaged, {len(content)} of {stamp['bytes']} bytes or bad CRC")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedState(f"{path}: holds more than plain tensors and numbers") from error


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
