"""Finds the model inside a wrapper, such as peft's PeftModel, which forwards attribute look-ups to its model.

Setting an attribute on such a wrapper does not reach the model. So families ask which attributes a model has itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

_MISSING = object()


def has(thing: Any, *names: str) -> bool:
    """Return whether `thing` has all these attributes itself: on the instance, as a submodule, or by its class."""
    modules = vars(thing).get("_modules", {}) if hasattr(thing, "__dict__") else {}
    return all(name in modules or inspect.getattr_static(thing, name, _MISSING) is not _MISSING for name in names)


def unwrap(model: Any, supports: Callable[[Any], bool]) -> Iterator[Any]:
    """Yield `model` if `supports` takes it, otherwise the outermost modules in it that `supports` takes.

    The search skips nn.DataParallel, which copies its model for every call: attributes and hooks do not follow.
    """
    if supports(model):
        yield model
    elif isinstance(model, nn.Module) and not isinstance(model, nn.DataParallel):
        for child in model.children():
            yield from unwrap(child, supports)
