"""How a compressor meets a model: one module per family, each with `supports(model)` and `attach(...)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from vidcom2.models import llava, names, transformers

if TYPE_CHECKING:
    from vidcom2.compressor import Compressor, Record

FAMILIES = (llava, transformers)


def attach(compressor: Compressor, model: nn.Module) -> tuple[Callable[[], None], Callable[[], list[Record]]]:
    """Put `compressor` on `model`; returns what takes it off again, and what tells the records of the latest call.

    Raises TypeError for a model that no family knows, RuntimeError for one that is compressed already.
    """
    for family in FAMILIES:
        if family.supports(model):
            names.warn_untested()
            return family.attach(compressor, model)
    known = "; ".join(family.NEEDS for family in FAMILIES)
    raise TypeError(f"{type(model).__name__} is of no family that vidcom2 can compress; it needs {known}")
