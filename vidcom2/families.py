"""The families of models that a compressor can be put on. They register themselves; see `vidcom2/models/`."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from vidcom2.records import Record
from vidcom2.unwrap import unwrap


class Hold(Protocol):
    """What a family puts on a model.

    records: of the model's latest call with a video. used: whether the model was called at all. remove: takes
    everything off the model. busy: whether another thread is in a call of the model.
    """

    @property
    def records(self) -> list[Record]: ...

    @property
    def used(self) -> bool: ...

    def remove(self) -> None: ...

    def busy(self) -> bool: ...


class Family(Protocol):
    """One way for a compressor to meet a model; a module will do.

    NEEDS: what a model must have, for the error message.
    """

    NEEDS: str

    def supports(self, model: Any) -> bool: ...

    def attach(self, compressor: Any, model: Any, /) -> Hold: ...


FAMILIES: list[Family] = []
"""In the order in which they are asked."""


def attach(compressor: Any, model: nn.Module) -> Hold:
    """Put `compressor` on `model`, or on the one model in it if it wraps one; returns what takes it off again.

    Raises TypeError for a model that no family knows or that holds several, RuntimeError for one that is compressed
    already.
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
