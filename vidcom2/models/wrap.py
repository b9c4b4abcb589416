"""Wrapping a method of one object, where no hook reaches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> Callable[[], None]:
    """Make `owner.name(...)` call `wrapper(original, ...)`. Return a function that puts back what was there."""
    own = name in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, partial(wrapper, original))

    def undo() -> None:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)

    return undo
