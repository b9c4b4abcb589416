"""How a compressor meets a model: one module per family, each with `supports(model)` and `attach(...)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from vidcom2.models import llava

if TYPE_CHECKING:
    from vidcom2.compressor import Compressor

FAMILIES = (llava,)


def attach(compressor: Compressor, model: nn.Module) -> Callable[[], None]:
    """Put `compressor` on `model` and return what takes it off again.

    Raises TypeError for a model that no family knows, RuntimeError for one that is compressed already.
    """
    for family in FAMILIES:
        if family.supports(model):
            return family.attach(compressor, model)
    known = "; ".join(family.NEEDS for family in FAMILIES)
    raise TypeError(f"{type(model).__name__} is of no family that vidcom2 can compress; it needs {known}")
