"""Checks that dataclasses of settings share. They raise ValueError that names the setting, its value and the fix."""

from __future__ import annotations

import dataclasses
import math
from numbers import Integral, Real
from typing import Any


def plain_numbers(settings: Any) -> None:
    """Replace numbers of other libraries (numpy.float32 ...) by the int or float that equals them, so that settings are
    written, compared and read back as Python's."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Real) and type(value) not in (int, float, bool):
            plain = int(value) if isinstance(value, Integral) else float(value)
            object.__setattr__(settings, field.name, plain)  # the dataclasses are frozen


def check_numbers(settings: Any) -> None:
    """Every field annotated `int` or `float`, also `... | None`, holds such a number, and a finite one.

    Whole numbers in float fields become floats, so that one setting has one spelling.
    """
    for field in dataclasses.fields(settings):
        kind, _, rest = getattr(field.type, "__name__", str(field.type)).partition(" | ")
        value = getattr(settings, field.name)
        if kind not in ("int", "float") or rest not in ("", "None") or (rest and value is None):
            continue
        right = isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
        if not right or not math.isfinite(value):
            wanted = "a whole number" if kind == "int" else "a number"
            raise ValueError(f"{field.name}={value!r} must be {wanted}{' or None' if rest else ''}")
        if kind == "float":
            object.__setattr__(settings, field.name, float(value))  # they are frozen dataclasses


def check_choice(settings: Any, name: str, choices: tuple[Any, ...]) -> None:
    value = getattr(settings, name)
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
