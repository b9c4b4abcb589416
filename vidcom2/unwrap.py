"""Finding the model behind what wraps it, such as peft's PeftModel, which hands on the attributes of its model.

What is set on such a wrapper never reaches the model, so families ask for attributes that a model has itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

_MISSING = object()


def has(thing: Any, *names: str) -> bool:
    """Whether `thing` has all these attributes itself: on the instance, as a submodule or by its class."""
    modules = vars(thing).get("_modules", {}) if hasattr(thing, "__dict__") else {}
    return all(name in modules or inspect.getattr_static(thing, name, _MISSING) is not _MISSING for name in names)


def unwrap(model: Any, supports: Callable[[Any], bool]) -> Iterator[Any]:
    """`model` itself where `supports` takes it, else the outermost modules in it that `supports` takes.

    nn.DataParallel is not looked into: it copies the model for every call, so attributes and hooks do not follow.
    """
    if supports(model):
        yield model
    elif isinstance(model, nn.Module) and not isinstance(model, nn.DataParallel):
        for child in model.children():
            yield from unwrap(child, supports)
