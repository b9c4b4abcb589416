"""Helpers for dataclasses of settings. The checks raise ValueError with the setting, its value and the fix."""

from __future__ import annotations

import dataclasses
import math
from numbers import Integral, Real
from typing import Any


def setting_fields(settings: Any) -> list[dataclasses.Field]:
    """Return the fields that a caller may set: all but those with `init=False`, which are derived.

    Args:
        settings: A dataclass, or an object of one.
    """
    return [f for f in dataclasses.fields(settings) if f.init]


def changed_settings(settings: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the settings that are not at their default, without those in `skip`."""
    values = {f.name: getattr(settings, f.name) for f in setting_fields(settings) if f.name not in skip}
    defaults = {f.name: f.default for f in setting_fields(settings)}
    return {name: value for name, value in values.items() if value != defaults[name]}


def plain_numbers(settings: Any) -> None:
    """Replace numbers of other libraries, such as numpy.float32, by the equal int or float.

    So settings are written, compared and read back as Python's numbers.
    """
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if isinstance(value, Real) and type(value) not in (int, float, bool):
            plain = int(value) if isinstance(value, Integral) else float(value)
            object.__setattr__(settings, f.name, plain)  # the dataclasses are frozen


def check_numbers(settings: Any) -> None:
    """Check that every field annotated `int` or `float`, also `... | None`, holds a finite number of that kind.

    Whole numbers in float fields become floats, so that one setting has one spelling.

    Raises:
        ValueError: A field holds something else.
    """
    for f in dataclasses.fields(settings):
        kind, _, rest = getattr(f.type, "__name__", str(f.type)).partition(" | ")
        value = getattr(settings, f.name)
        if kind not in ("int", "float") or rest not in ("", "None") or (rest and value is None):
            continue
        right = isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
        if not right or not math.isfinite(value):
            wanted = "a whole number" if kind == "int" else "a number"
            raise ValueError(f"{f.name}={value!r} must be {wanted}{' or None' if rest else ''}")
        if kind == "float":
            object.__setattr__(settings, f.name, float(value))  # the dataclasses are frozen


def check_choice(settings: Any, name: str, choices: tuple[Any, ...]) -> None:
    """Check that the setting `name` is one of `choices`.

    Raises:
        ValueError: It is not.
    """
    value = getattr(settings, name)
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")


def check_at_least_one(settings: Any, *names: str) -> None:
    """Check that these settings are at least 1.

    Raises:
        ValueError: One is not.
    """
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name}={getattr(settings, name)!r} must be at least 1")


def check_share(settings: Any, *names: str) -> None:
    """Check that these settings are in [0, 1].

    Raises:
        ValueError: One is not.
    """
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"{name}={getattr(settings, name)!r} must be in [0, 1]")
