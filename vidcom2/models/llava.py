"""The LLaVA tree (`llava/`): its models hold their compressor themselves and call it between pooling and splicing.

Any model with the same two attributes is served: `compressor` (None, or what compresses its videos) and
`visual_records` (the `Record`s of the latest call).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidcom2.compressor import Compressor, Record

NEEDS = "a LLaVA model of this project's llava package (attributes `compressor` and `visual_records`)"


def supports(model: Any) -> bool:
    return hasattr(model, "compressor") and hasattr(model, "visual_records")


def attach(compressor: Compressor, model: Any) -> tuple[Callable[[], None], Callable[[], list[Record]]]:
    if model.compressor is not None:
        raise RuntimeError(
            f"{type(model).__name__} is compressed already, by {model.compressor.spec}; leave its with-block or "
            "detach it first"
        )
    model.compressor = compressor

    def undo() -> None:
        model.compressor = None

    return undo, lambda: list(model.visual_records)
