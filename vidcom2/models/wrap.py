"""Wrapping methods of one object, for what hooks do not reach."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> Callable[[], None]:
    """Have `owner.name(...)` call `wrapper(original, ...)`; returns what puts back whatever was there."""
    own = name in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, partial(wrapper, original))

    def undo() -> None:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)

    return undo
