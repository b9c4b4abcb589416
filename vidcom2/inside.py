"""What methods that drop visual tokens between the layers of the LLM have in common: schedules, scores, budgets.

How they meet a model is in vidcom2/models/layers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vidcom2.compressor import Compressor, Kept, keep_all
from vidcom2.frame_adjustment import FrameAdjustment

NOMINAL = 576
"""Visual tokens of the prompt that a setting is checked with before there is one: those of LLaVA-1.5."""
EXPLICIT_TOLERANCE = 0.02
"""How far `retention` may be from what a schedule given by hand amounts to."""


@dataclass(frozen=True)
class Stage:
    """Visual tokens are dropped once. Layers count from 0.

    rank: the layer whose queries and keys rank them. cut: the first layer that has fewer rows, `rank` or the next one.
    keep: how many of the video's patch tokens stay, if there are so many.
    """

    rank: int
    cut: int
    keep: int


@dataclass(frozen=True)
class Merged:
    """Dropped tokens that stay as means: features [C, D], and the dropped token in the centre of each, int64 [C]."""

    features: Tensor
    centre: Tensor


@dataclass(frozen=True)
class InsideLLM(Compressor):
    """Base of methods that drop visual tokens inside the LLM, once or several times, ranked by attention.

    retention: R is the mean over the LLM's layers of (patch tokens the layer really processes, merged ones included)
        over (patch tokens without compression). The schedule is solved for it, within one token per frame, and the
        outcome checked after each prefill.
    positions: None takes the method's own. "original": rows that stay keep their rotary positions, and new tokens go on
        as if nothing had been dropped. "repack": what stays is numbered 0..N'-1 at every stage, and a new token's
        position in a layer is the number of rows that this layer has seen.
    fca: at each stage, the tokens that stay are shared among the frames as VidCom² would ("name+fca"), by the features
        before the LLM, and ranked within their frame. A frame keeps one token at least.

    Separators (newlines) are no patches and stay. Several videos in a prompt are ranked each for itself. Images stay.

    A method has `_schedule`, and `raters` and `merge` where it uses them.
    """

    fca: FrameAdjustment | None = field(default=None, kw_only=True)

    stage: ClassVar[Literal["before LLM", "inside LLM"]] = "inside LLM"
    needs_attention: ClassVar[bool] = True
    numbering: ClassVar[Literal["repack", "original"]] = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fca is not None and not isinstance(self.fca, FrameAdjustment):
            raise ValueError(f"fca={self.fca!r} must be a FrameAdjustment or None; in a spec, write {self.name}+fca")
        if self.fca is not None and self.fca.rounding != "exact":
            raise ValueError(
                f"fca.rounding={self.fca.rounding!r}: {self.name} solves for how many tokens stay, so its frames' "
                "budgets have to add up: leave it 'exact'"
            )

    def _select(self, x: Tensor) -> Kept:
        """Before the LLM, everything stays."""
        return keep_all(x)

    @property
    def numbers(self) -> Literal["repack", "original"]:
        """`positions`, or the method's own."""
        return self.positions or self.numbering

    # ---- when and how many

    def schedule(self, layers: int, tokens: int) -> tuple[Stage, ...]:
        """The stages for an LLM of `layers` layers and a video of `tokens` patch tokens; their layers do not depend on
        the video. None for R = 1. Raises ValueError for a retention that the method cannot reach, and says the floor.
        """
        return () if self.retention == 1 else self._schedule(layers, tokens)

    def _schedule(self, layers: int, tokens: int) -> tuple[Stage, ...]:
        raise NotImplementedError

    def limit(self, keep: int, present: int) -> int:
        """How many of `present` tokens a stage can keep that is to keep `keep`."""
        return min(keep, present)

    def extra(self, present: int, keep: int) -> int:
        """How many merged tokens a stage makes that keeps `keep` of `present` tokens."""
        return 0

    def processed(self, stages: tuple[Stage, ...], layers: int, tokens: int) -> tuple[int, ...]:
        """Patch and merged tokens of the video in each layer."""
        counts, cuts = [], {stage.cut: stage.keep for stage in stages}
        for layer in range(layers):
            if layer in cuts:
                keep = self.limit(cuts[layer], tokens)
                tokens = keep + self.extra(tokens, keep)
            counts.append(tokens)
        return tuple(counts)

    def check(self, layers: int) -> None:
        """Raise ValueError where the settings do not suit an LLM of so many layers."""
        stages = self.schedule(layers, NOMINAL)
        amounts = sum(self.processed(stages, layers, NOMINAL)) / layers / NOMINAL
        if abs(amounts - self.retention) > EXPLICIT_TOLERANCE:
            raise ValueError(
                f"{self.spec} amounts to retention {amounts:.3f} on the {layers} layers of this LLM: say so, or leave "
                "its stages to be solved for the retention"
            )

    def verify(self, counts: Sequence[int], tokens: int, frames: int) -> None:
        """Raise RuntimeError where `counts`, a video's tokens in each layer, are not the retention asked for."""
        off = abs(sum(counts) / len(counts) - self.retention * tokens)
        if off > frames + 1 + EXPLICIT_TOLERANCE * tokens * self.by_hand:
            raise RuntimeError(f"{self.spec} left {tuple(counts)} of {tokens} tokens in the layers: this is a bug")

    @property
    def by_hand(self) -> bool:
        """Whether the settings say how many tokens stay, instead of `retention`."""
        return False

    def unreachable(self, floor: float, layers: int, remedy: str) -> ValueError:
        return ValueError(
            f"{self.name} cannot reach retention={self.retention} on the {layers} layers of this LLM: its floor is "
            f"{floor:.3f}; {remedy}"
        )

    # ---- which

    def raters(self, visual: Tensor, question: Tensor) -> Tensor | None:
        """Which text tokens' attention ranks, bool [Q]; None for the prompt's last token.

        visual: [V, D], the video's rows as they enter the LLM; question: [Q, D], the text rows after them.
        """
        return None

    def scores(self, attention: Tensor, rotary: Tensor | None) -> Tensor:
        """What each visual token deserves, float32 [V].

        attention: float32 [heads, rows, V], probabilities over all keys that a row sees. rotary: see `wants_rotary`.
        """
        return attention.mean(dim=(0, 1))

    @property
    def wants_rotary(self) -> bool:
        """Whether `scores` needs, [rows, V], the product of all-ones vectors at the positions of row and token over
        sqrt(head dimension)."""
        return False

    @property
    def eager(self) -> bool:
        """Whether to rank by the weights that the layer's own eager attention returned."""
        return getattr(self, "attention", "rows") == "eager"

    def merge(self, hidden: Tensor, scores: Tensor) -> Merged | None:
        """What becomes of the dropped tokens: hidden [n, D] as they leave the ranking layer, their scores [n]."""
        return None


def choose(scores: Tensor, keep: int) -> Tensor:
    """The `keep` highest of scores [V], ascending int64; of equal ones the earlier."""
    return scores.argsort(descending=True, stable=True)[:keep].sort().values


def choose_per_frame(scores: Tensor, frame: Tensor, budgets: Tensor) -> Tensor:
    """The budgets[t] highest of scores [V] in each frame, ascending int64; frame: int64 [V]. What a frame lacks goes
    to those with the most tokens to spare."""
    present = torch.bincount(frame, minlength=len(budgets))
    given = torch.minimum(budgets, present)
    lacking, spare = int((budgets - given).sum()), (present - given).cpu()
    for _ in range(min(lacking, int(spare.sum()))):
        spare[spare.argmax()] -= 1
    given = present - spare.to(present.device)
    best = scores.argsort(descending=True, stable=True)
    best = best[frame[best].argsort(stable=True)]  # frame by frame, each from its best token down
    place = torch.arange(len(best), device=best.device) - (present.cumsum(0) - present)[frame[best]]
    return best[place < given[frame[best]]].sort().values


def layer_numbers(setting: str, value: Any) -> None:
    """ValueError unless value is a tuple of ascending positive whole numbers."""
    whole = isinstance(value, tuple) and all(isinstance(i, int) and not isinstance(i, bool) for i in value)
    if not whole or not value or value[0] < 0 or any(a >= b for a, b in pairwise(value)):
        raise ValueError(f"{setting}={value!r} must be a tuple of ascending layer numbers, such as (8, 16, 24)")


def shares_of(setting: str, value: Any) -> None:
    """ValueError unless value is a tuple of numbers that are not negative."""
    if not isinstance(value, tuple) or any(not isinstance(i, (int, float)) or i < 0 for i in value):
        raise ValueError(f"{setting}={value!r} must be a tuple of shares of the visual tokens, such as (0.5, 0.25)")
