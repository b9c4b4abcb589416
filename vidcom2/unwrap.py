"""Finding the model behind a wrapper such as peft's PeftModel.

Such a wrapper passes on its model's attributes when they are read. An attribute that is set on the wrapper never
reaches the model. So families only accept a model that has the attributes itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

_MISSING = object()


def has(thing: Any, *names: str) -> bool:
    """Return whether `thing` has all these attributes itself: on the instance, as a submodule or by its class."""
    modules = vars(thing).get("_modules", {}) if hasattr(thing, "__dict__") else {}
    return all(name in modules or inspect.getattr_static(thing, name, _MISSING) is not _MISSING for name in names)


def unwrap(model: Any, supports: Callable[[Any], bool]) -> Iterator[Any]:
    """Yield `model` itself if `supports` accepts it, else the outermost modules inside it that `supports` accepts.

    It does not look into nn.DataParallel, which copies the model for every call: attributes and hooks do not follow.
    """
    if supports(model):
        yield model
    elif isinstance(model, nn.Module) and not isinstance(model, nn.DataParallel):
        for child in model.children():
            yield from unwrap(child, supports)
