"""Families of models: the ways to attach a compressor. The modules of `vidcom2/models/` register in `FAMILIES`."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from vidcom2.records import Record
from vidcom2.unwrap import unwrap


class Hold(Protocol):
    """What a family puts on a model: the inner side of an `Attachment`."""

    @property
    def records(self) -> list[Record]:
        """The records of the model's latest call with a video."""

    @property
    def used(self) -> bool:
        """Whether the model was called."""

    def remove(self) -> None:
        """Take everything off the model."""

    def busy(self) -> bool:
        """Return whether another thread is in a call of the model."""


class Family(Protocol):
    """One way to attach a compressor to a model; a module with these names will do.

    Attributes:
        NEEDS: What a model must have, in words, for the error message.
    """

    NEEDS: str

    def supports(self, model: Any) -> bool:
        """Return whether `model` itself (not a module inside it) belongs to the family."""

    def attach(self, compressor: Any, model: Any, /) -> Hold:
        """Put `compressor` on `model`, which `supports` has taken."""


FAMILIES: list[Family] = []
"""All families, in the order in which they are asked."""


def attach(compressor: Any, model: nn.Module) -> Hold:
    """Put a compressor on a model, or on the one model inside it if it is a wrapper.

    Args:
        compressor: The `Compressor`.
        model: The model or its wrapper, such as peft's PeftModel.

    Returns:
        The `Hold` that takes it off again.

    Raises:
        TypeError: No family supports the model, or it holds several supported models.
        RuntimeError: The model is compressed already.
    """
    found = [(family, inner) for family in FAMILIES for inner in unwrap(model, family.supports)]
    if len(found) > 1:
        kinds = ", ".join(type(inner).__name__ for _, inner in found)
        raise TypeError(f"{type(model).__name__} holds {len(found)} models ({kinds}): attach to one of them")
    for family, inner in found:
        return family.attach(compressor, inner)
    known = "; ".join(family.NEEDS for family in FAMILIES)
    raise TypeError(
        f"{type(model).__name__} is of no family that vidcom2 can compress, and neither is a module in it; a model "
        f"needs {known}. If a wrapper is nn.DataParallel or no nn.Module, pass the model inside it"
    )
