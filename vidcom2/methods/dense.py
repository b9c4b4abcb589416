"""No compression: what every method is compared with, as in https://arxiv.org/abs/2505.14454, table 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from vidcom2.compressor import Attachment, Compressor, Kept, keep_all
from vidcom2.specs import register


@register("none", "dense")
@dataclass(frozen=True)
class Dense(Compressor):
    """Keep every token. The model is called as it is: nothing is put on it but a counter of its calls.

    Raises ValueError for any setting that is not its default, since it would change nothing.
    """

    retention: float = 1.0

    drops: ClassVar[bool] = False
    reachable: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.settings != {"retention": 1.0, "positions": None, "newlines": "released"}:
            raise ValueError(f"{self.settings}: dense compresses nothing, and has no settings")

    def _select(self, x: Tensor) -> Kept:
        return keep_all(x)

    @property
    def spec(self) -> str:
        return self.name

    def attach(self, model: nn.Module) -> Attachment:
        """Count the calls of `model`; `records` are the model's own, where it keeps any (our llava tree)."""
        return Attachment(self, model, Untouched(model))


class Untouched:
    """See `vidcom2.families.Hold`."""

    def __init__(self, model: nn.Module):
        self.model, self.used = model, False
        self._handle = model.register_forward_pre_hook(self._note)

    def _note(self, *_: Any) -> None:
        self.used = True

    @property
    def records(self) -> list[Any]:
        return list(getattr(self.model, "visual_records", ()))

    def busy(self) -> bool:
        return False

    def remove(self) -> None:
        self._handle.remove()
