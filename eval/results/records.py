"""Dataclasses from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def record(kind: type[T], content: Mapping[str, Any]) -> T:
    """Make a dataclass of a JSON object, and dataclasses of the objects in it.

    Args:
        kind: The dataclass.
        content: The object. Keys that `kind` does not have are passed over.

    Raises:
        ValueError: A key without a default is missing, or an object is something else.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{content!r} is no {kind.__name__}")
    key: Any = kind  # mypy does not know that classes are hashable
    hints = _hints(key)
    if missing := [name for name, (_, required) in hints.items() if required and name not in content]:
        raise ValueError(f"{kind.__name__} lacks {', '.join(missing)}")
    return kind(**{name: _value(hint, content[name]) for name, (hint, _) in hints.items() if name in content})


@cache
def _hints(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return the type of each field, and whether the field has no default."""
    types = get_type_hints(kind)
    return {
        item.name: (types[item.name], item.default is MISSING and item.default_factory is MISSING)
        for item in fields(kind)
    }


def _value(hint: Any, value: Any) -> Any:
    """Return a field's value. Its type may be a dataclass, a dataclass or None, or a list or dict of dataclasses."""
    if value is None or is_dataclass(value):
        return value
    if is_dataclass(hint) and isinstance(hint, type):
        return record(hint, value)
    container: Any = get_origin(hint)
    if container in (list, dict) and not isinstance(value, container):
        raise ValueError(f"{value!r} is no {container.__name__}")
    inner: list[Any] = [part for part in get_args(hint) if is_dataclass(part)]
    if not inner:
        return value
    if container is list:
        return [record(inner[0], part) for part in value]
    if container is dict:
        return {name: record(inner[0], part) for name, part in value.items()}
    return record(inner[0], value)
