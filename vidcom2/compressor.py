"""What every compression method shares: its settings, its result, and how it is attached to a model."""

from __future__ import annotations

import dataclasses
import threading
import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vidcom2.families import Hold, attach
from vidcom2.features import all_finite, check_features, full_precision, require_finite
from vidcom2.frame_adjustment import FrameAdjustment
from vidcom2.records import Record
from vidcom2.settings import check_choice, check_numbers, plain_numbers


@dataclass(frozen=True)
class Kept:
    """Which of the T·M visual tokens stay.

    index:    int64 [N], ascending positions in the flattened T·M tokens.
    budgets:  int64 [T], tokens kept per frame; sums to N.
    features: [N, D] for methods that merge tokens; None means the tokens at `index` as they are.
    """

    index: Tensor
    budgets: Tensor
    features: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        """The kept tokens [N, D] of x [T, M, D]."""
        return x.flatten(0, 1).index_select(0, self.index) if self.features is None else self.features


@dataclass(frozen=True)
class Compressor:
    """Base of all methods: a method is a small frozen dataclass with `_select`.

    retention: R in (0, 1], share of the visual tokens to keep; 1 keeps every token, for every method.
    positions: "repack" numbers the shortened sequence 0..L'-1; "original" lets every token keep the position it
        had in the full sequence. None takes what was released for the model's family.
    newlines: what becomes of a LLaVA-Video grid's row newlines. "released": each frame's kept tokens, then all
        its newlines. "rows": raster order, a newline after each row that kept a token, empty rows vanish.

    Raises ValueError for settings out of range.

    What the table in docs/methods.md says about a method:
    venue, paper: where it was published, and the paper's URL.
    needs_attention: scores come from attention rows. flash_attention: flash and SDPA attention stay on.
    video_specific: looks across frames. frame_adaptive: what is in a frame decides its budget.
    merges: kept tokens are means of several. reachable: which retention it really gives.
    drops: removes tokens at all, as every method but dense does.
    """

    retention: float = 0.25
    positions: Literal["repack", "original"] | None = field(default=None, kw_only=True)
    newlines: Literal["released", "rows"] = field(default="released", kw_only=True)

    name: ClassVar[str] = ""
    presets: ClassVar[tuple[str, ...]] = ()
    venue: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    stage: ClassVar[Literal["before LLM", "inside LLM"]] = "before LLM"
    needs_attention: ClassVar[bool] = False
    video_specific: ClassVar[bool] = False
    frame_adaptive: ClassVar[bool] = False
    flash_attention: ClassVar[bool] = True
    merges: ClassVar[bool] = False
    drops: ClassVar[bool] = True
    reachable: ClassVar[str] = "any"

    def __post_init__(self) -> None:
        plain_numbers(self)
        r = self.retention
        if isinstance(r, bool) or not isinstance(r, (int, float)) or not 0 < r <= 1:
            raise ValueError(f"retention={r!r} must be a number in (0, 1]; 0.25 keeps a quarter of the tokens")
        check_numbers(self)
        check_choice(self, "positions", (None, "repack", "original"))
        check_choice(self, "newlines", ("released", "rows"))

    def select(self, x: Tensor) -> Kept:
        """Choose the tokens of one video to keep.

        x: [T, M, D] float tensor (T frames, M tokens per frame, D hidden size), any device and float dtype.
        Raises ValueError for another rank, an empty or a non-float tensor, and for NaN or Inf features.
        """
        check_features(x)
        if self.retention == 1:
            return keep_all(x)
        with full_precision(x.device):
            return self._select(x)

    def _select(self, x: Tensor) -> Kept:
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting with its value, for results and provenance."""
        return dataclasses.asdict(self)

    @property
    def spec(self) -> str:
        """The shortest text that `compressor` turns back into this object; identifies it in results and caches."""
        fca: FrameAdjustment | None = getattr(self, "fca", None)
        changed = _changed(self, "", ("retention", "fca")) + (_changed(fca, "fca.") if fca else [])
        return f"{self.name}{'+fca' if fca else ''}@{self.retention}{''.join(changed)}"

    def attach(self, model: nn.Module) -> Attachment:
        """Compress every later call of `model` until `.detach()`. Prefer `with compressor(model):`.

        Raises TypeError for a model of an unknown family and RuntimeError for one that is compressed already.
        """
        return Attachment(self, model, attach(self, model))

    def __call__(self, model: nn.Module) -> Block:
        """`with compressor(model) as run:` compresses the calls of `model` inside the block; see `Block`."""
        return Block(self, model)


def keep_all(x: Tensor) -> Kept:
    """Every token of x [T, M, D]. Raises ValueError for NaN or Inf."""
    require_finite(bool(all_finite(x)), x)
    frames, m = x.shape[:2]
    return Kept(torch.arange(frames * m, device=x.device), torch.full((frames,), m, device=x.device))


def _changed(settings: Any, prefix: str, skip: tuple[str, ...] = ()) -> list[str]:
    """A dataclass's settings that are not at their default, as parts of a spec."""
    return [
        f":{prefix}{f.name}={_short(value)}"
        for f in dataclasses.fields(settings)
        if f.name not in skip and (value := getattr(settings, f.name)) != f.default
    ]


def _short(value: Any) -> Any:
    """2 for 2.0, as one writes it; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass
class Attachment:
    """A compressor on a model. `records` tells what the model's latest call with a video did (of our llava tree: its
    latest prompt, if only text), and is empty before the first and after one that failed. Of calls in several threads
    it is one call's, never a mixture. `detach` undoes the attachment."""

    compressor: Compressor
    model: Any
    _hold: Hold
    _attached: bool = True

    @property
    def records(self) -> list[Record]:
        return list(self._hold.records)

    @property
    def used(self) -> bool:
        """Whether the model was called since."""
        return self._hold.used

    def detach(self) -> None:
        """Raises RuntimeError, once the compressor is off, where another thread is in a call of the model."""
        busy = self._attached and self._hold.busy()
        self.remove()
        if busy:
            raise RuntimeError(
                f"{self.compressor.spec} was taken off while a call of the model ran in another thread, which is not "
                "compressed as asked: wait for it first, inside the with-block (a streamed answer: read it there)"
            )

    def remove(self) -> None:
        """`detach`, whoever is in a call."""
        if self._attached:  # a second time, it must not take off what came after
            self._attached = False
            self._hold.remove()


class Block:
    """`with compressor(model) as run:`. The model is compressed inside the block only, for every thread; `run` is its
    `Attachment`.

    Entering raises what `Compressor.attach` raises, leaving without an exception what `Attachment.detach` raises. Warns
    where the block is never entered, or left without a call of the model: then nothing was compressed. Raises
    RuntimeError instead where a thread that began inside, and is no daemon, has still to end: it may be about to call.
    """

    def __init__(self, compressor: Compressor, model: nn.Module):
        self.compressor, self.model, self.entered = compressor, model, False

    def __enter__(self) -> Attachment:
        self.entered, self.threads = True, set(threading.enumerate())
        self.attachment = self.compressor.attach(self.model)
        return self.attachment

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self.attachment.remove()
            return
        self.attachment.detach()
        if self.attachment.used:
            return
        text = (
            f"the model was not called while {self.compressor.spec} was on it. What calls it later, a thread or a "
            "generator that began inside the with-block, is not compressed: finish it inside"
        )
        begun = [thread for thread in threading.enumerate() if thread not in self.threads and not thread.daemon]
        if begun:
            raise RuntimeError(f"{text}, as for thread {begun[0].name}")
        warnings.warn(text, RuntimeWarning, stacklevel=2)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self!r} is no model and has no {name!r}: {self.usage}")

    def __del__(self) -> None:
        if not vars(self).get("entered", True):
            text = f"{self!r} was never entered, so nothing is compressed: {self.usage}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"{type(self.compressor).__name__}(...)({type(self.model).__name__})"

    @property
    def usage(self) -> str:
        name = type(self.compressor).__name__
        return f"write `with {name}(...)(model) as run:` and call the model inside, or {name}(...).attach(model)"
