"""From what YAML or a flag says to the value a typed option wants."""

from __future__ import annotations

import types
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from dynamask.errors import InputError


def convert(value: Any, wanted: Any, name: str, where: str) -> Any:
    """``value`` as ``wanted`` (bool, int, float, str, Literal, list, dict, or one of them | None).

    A string is read as YAML first unless a string is wanted, so "1e-3" and "[1, 2]" do as flags.

    Raises:
        InputError: naming the option, where it was given and what was expected.
    """
    try:
        return _convert(value, wanted)
    except (TypeError, ValueError):
        raise InputError(
            f"config: {name} in {where} is {value!r}, expected {spelled(wanted)}"
        ) from None


def spelled(wanted: Any) -> str:
    """A type in words."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return " or ".join("nothing" if arg is type(None) else spelled(arg) for arg in args)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is list:
        return f"a list, each {spelled(args[0])}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return names.get(wanted, "option: value pairs")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`` - did you mean 'x'?`` for the nearest known name, or nothing if none is near."""

    def likeness(option: str) -> float:
        whole = SequenceMatcher(None, name, option).ratio()
        # 'optim.epoch' means 'train.epochs', which its first word hides
        last = SequenceMatcher(None, name.rpartition(".")[2], option.rpartition(".")[2]).ratio()
        return max(whole, 0.95 * last)

    best = max(known, key=likeness, default=None)
    return f" - did you mean '{best}'?" if best and likeness(best) > 0.7 else ""


def _convert(value: Any, wanted: Any) -> Any:
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("", "null", "none", "~")):
            return None
        (inner,) = (arg for arg in args if arg is not type(None))
        return _convert(value, inner)
    if wanted is str:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise TypeError
        return str(value)
    if origin is Literal:
        if value not in args:
            raise ValueError
        return value
    if isinstance(value, str):
        value = yaml.safe_load(value)
    if origin is list:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            value = [value]
        return [_convert(item, args[0]) for item in value]
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError
        return value
    if wanted is bool:
        if not isinstance(value, bool):
            raise TypeError
        return value
    if isinstance(value, bool) or value is None:
        raise TypeError
    if wanted is int:
        if float(value) != int(float(value)):
            raise ValueError
        return int(float(value))
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError
    return number
