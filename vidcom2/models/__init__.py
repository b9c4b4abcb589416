"""How a compressor meets a model: one module per family, each with `supports(model)` and `attach(...)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from vidcom2.models import llava, names, transformers
from vidcom2.models.unwrap import unwrap

if TYPE_CHECKING:
    from vidcom2.attachment import Hold
    from vidcom2.compressor import Compressor

FAMILIES = (llava, transformers)


def attach(compressor: Compressor, model: nn.Module) -> Hold:
    """Put `compressor` on `model`, or on the one model in it if it wraps one; returns what takes it off again.

    Raises TypeError for a model that no family knows or that holds several, RuntimeError for one that is compressed
    already.
    """
    found = [(family, inner) for family in FAMILIES for inner in unwrap(model, family.supports)]
    if len(found) > 1:
        kinds = ", ".join(type(inner).__name__ for _, inner in found)
        raise TypeError(f"{type(model).__name__} holds {len(found)} models ({kinds}): attach to one of them")
    for family, inner in found:
        names.warn_untested()
        return family.attach(compressor, inner)
    known = "; ".join(family.NEEDS for family in FAMILIES)
    raise TypeError(
        f"{type(model).__name__} is of no family that vidcom2 can compress, nor a module in it; it needs {known}. Of "
        "a model behind a wrapper that is no nn.Module, or behind nn.DataParallel, pass the model itself"
    )
