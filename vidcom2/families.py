"""The families of models that a compressor can be put on.

Families register themselves in `FAMILIES`: those of vidcom2 when `vidcom2.models` is imported, your own by
`FAMILIES.append(...)`. Nothing imports them back.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from vidcom2.records import Record
from vidcom2.unwrap import unwrap


class Hold(Protocol):
    """What a family puts on a model."""

    @property
    def records(self) -> list[Record]:
        """Records of the model's latest call with a video."""
        ...

    @property
    def used(self) -> bool:
        """Whether the model was called."""
        ...

    def remove(self) -> None:
        """Take everything off the model."""
        ...

    def busy(self) -> bool:
        """Whether another thread is in a call of the model."""
        ...


class Family(Protocol):
    """One way for a compressor to meet a model. A module with these names will do.

    Attributes:
        NEEDS: What a model of this family must have, for error messages.
    """

    NEEDS: str

    def supports(self, model: Any) -> bool:
        """Return whether `model` itself, not a module in it, is of this family."""
        ...

    def attach(self, compressor: Any, model: Any, /) -> Hold:
        """Put a compressor on a model that `supports` accepts.

        Raises:
            RuntimeError: If the model is compressed already.
        """
        ...


FAMILIES: list[Family] = []
"""All families, in the order in which they are asked."""


def attach(compressor: Any, model: nn.Module) -> Hold:
    """Put `compressor` on `model`, or on the one model inside it if it is a wrapper.

    Returns:
        What takes the compressor off again.

    Raises:
        TypeError: If no family knows the model, or if it holds several models.
        RuntimeError: If the model is compressed already.
    """
    found = [(family, inner) for family in FAMILIES for inner in unwrap(model, family.supports)]
    if len(found) > 1:
        kinds = ", ".join(type(inner).__name__ for _, inner in found)
        raise TypeError(f"{type(model).__name__} holds {len(found)} models ({kinds}): attach to one of them")
    for family, inner in found:
        return family.attach(compressor, inner)
    known = "; ".join(family.NEEDS for family in FAMILIES)
    raise TypeError(
        f"{type(model).__name__} is of no family that vidcom2 can compress, nor a module in it; it needs {known}. Of "
        "a model behind a wrapper that is no nn.Module, or behind nn.DataParallel, pass the model itself"
    )
