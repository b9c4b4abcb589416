"""No compression, the baseline of every method, as in https://arxiv.org/abs/2505.14454, table 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from vidcom2.compressor import Attachment, Compressor, Kept, keep_all
from vidcom2.settings import changed_settings
from vidcom2.specs import register


@register("none", "dense")
@dataclass(frozen=True)
class Dense(Compressor):
    """Keep every token. The model runs as it is, with a hook that only notes whether it was called.

    Raises:
        ValueError: A setting is not at its default. It would change nothing.
    """

    retention: float = 1.0

    drops: ClassVar[bool] = False
    reachable: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if changed := changed_settings(self):
            raise ValueError(f"{changed}: dense compresses nothing, and has no settings")

    def _select(self, x: Tensor) -> Kept:
        return keep_all(x)

    @property
    def spec(self) -> str:
        """The text "none"."""
        return self.name

    def attach(self, model: nn.Module) -> Attachment:
        """Note whether `model` is called. The records are the model's own, if it keeps any (our `llava` package)."""
        return Attachment(self, model, Untouched(model))


class Untouched:
    """The `vidcom2.families.Hold` of a model that runs as it is."""

    def __init__(self, model: nn.Module):
        self.model, self.used = model, False
        self._handle = model.register_forward_pre_hook(self._note)

    def _note(self, *_: Any) -> None:
        self.used = True

    @property
    def records(self) -> list[Any]:
        """The model's own records, if it keeps any."""
        return list(getattr(self.model, "visual_records", ()))

    def busy(self) -> bool:
        """Return False: no call can be spoilt by taking nothing off."""
        return False

    def remove(self) -> None:
        """Remove the hook."""
        self._handle.remove()
