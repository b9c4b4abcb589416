"""Base of the methods that drop visual tokens between the layers of the LLM: schedules, scores, budgets.

vidcom2/models/layers.py attaches them to a model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vidcom2.compressor import Compressor, Kept, keep_all
from vidcom2.frame_adjustment import FrameAdjustment

NOMINAL = 576
"""Visual tokens that `check` assumes, since it runs before there is a prompt: those of an image in LLaVA-1.5."""
EXPLICIT_TOLERANCE = 0.02
"""How far `retention` may be from the mean that a schedule given by hand has."""


@dataclass(frozen=True)
class Stage:
    """One point in the LLM where visual tokens are dropped. Layers count from 0.

    Attributes:
        rank: The layer that ranks the tokens, by its queries and keys.
        cut: The first layer that processes fewer tokens: `rank` or the next one.
        keep: How many of the video's patch tokens stay, if there are as many.
    """

    rank: int
    cut: int
    keep: int


@dataclass(frozen=True)
class Merged:
    """Dropped tokens that stay as means of clusters.

    Attributes:
        features: [C, D], the means.
        centre: int64 [C], the dropped token in the centre of each cluster, whose position the mean takes.
    """

    features: Tensor
    centre: Tensor


@dataclass(frozen=True)
class InsideLLM(Compressor):
    """Base of methods that drop visual tokens inside the LLM, once or several times, ranked by attention.

    Tokens are dropped in the prefill. Separators (newlines) and images stay. Each video of a prompt is ranked for
    itself. A subclass defines `_schedule`; it may override `scores`, `raters` and `merge`. A method that also chooses
    tokens before the first layer, by their features, sets `selects` and overrides `enter` and `entering`.

    Some LLMs have linear attention in most layers, such as Qwen3.5 in three of four. These have no attention rows, so a
    stage that would rank in one ranks in the next layer with full attention. Layers of both kinds process fewer tokens
    from then on, and both count for R. The recurrent state of an earlier linear layer has seen the dropped tokens.

    Args:
        retention: R is a mean over the LLM's layers: the patch tokens that a layer really processes, merged ones
            included, over the patch tokens without compression. The schedule is solved for R within one token per
            frame, and the outcome is checked after each prefill.
        positions: "original" lets the tokens that stay keep their rotary positions, and new tokens go on as if nothing
            had been dropped. "repack" numbers the tokens that stay 0..N'-1 at every stage; the position of a new
            token in a layer is then the number of tokens that this layer has seen. None takes `numbering`.
        fca: Share the tokens that stay at each stage among the frames as VidCom² would ("name+fca"), by the features
            before the LLM. Tokens are then ranked within their frame, and every frame keeps at least one.

    Attributes:
        numbering: The method's own `positions`.
        selects: Whether the first layer already processes fewer tokens.
    """

    fca: FrameAdjustment | None = field(default=None, kw_only=True)

    stage: ClassVar[Literal["before LLM", "inside LLM"]] = "inside LLM"
    needs_attention: ClassVar[bool] = True
    numbering: ClassVar[Literal["repack", "original"]] = "original"
    selects: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        FrameAdjustment.check(self.fca, self.name)
        if self.fca is not None and self.fca.rounding != "exact":
            raise ValueError(
                f"fca.rounding={self.fca.rounding!r}: {self.name} solves for how many tokens stay, so its frames' "
                "budgets have to add up: leave it 'exact'"
            )

    def _select(self, x: Tensor) -> Kept:
        """Before the LLM, every token stays, even if the method `selects`: its hooks do that, in the LLM."""
        return keep_all(x)

    def enter(self, x: Tensor) -> Kept | None:
        """Return which tokens of a video enter the first layer, and as what.

        Args:
            x: Features [T, M, D] as the LLM gets them.

        Returns:
            None for all of them, as they are.
        """
        return None

    def entering(self, tokens: int) -> int:
        """Return how many of a video's `tokens` patch tokens enter the first layer, about."""
        return tokens

    @property
    def numbers(self) -> Literal["repack", "original"]:
        """`positions`, or the method's own if that is None."""
        return self.positions or self.numbering

    # ---- when and how many

    def schedule(self, layers: int, tokens: int, linear: Collection[int] = ()) -> tuple[Stage, ...]:
        """Return the stages; there are none for R = 1.

        Args:
            layers: Number of layers of the LLM.
            tokens: Patch tokens of the video. The layers of the stages do not depend on it.
            linear: The layers with linear attention, which cannot rank.

        Raises:
            ValueError: The method cannot reach the retention; the message says the lowest one that it can.
        """
        return () if self.retention == 1 else self._schedule(layers, tokens, linear)

    def _schedule(self, layers: int, tokens: int, linear: Collection[int]) -> tuple[Stage, ...]:
        raise NotImplementedError

    def rankers(self, wanted: Sequence[int], layers: int, linear: Collection[int]) -> tuple[int, ...]:
        """Return the layers that rank: for each wanted one itself or, if it is linear, the next that is not.

        Raises:
            ValueError: There is none.
        """
        full = [i for i in range(layers) if i not in linear]
        if linear and (not full or wanted[-1] > full[-1]):
            last = f"the last with full attention is layer {full[-1]}" if full else "none has full attention"
            raise ValueError(
                f"{self.name} would rank in layer {wanted[-1]}, but of this LLM's {layers} layers {last}: rank in an "
                "earlier one, or use a method that drops tokens before the LLM, such as vidcom2"
            )
        return tuple(min(i for i in full if i >= layer) if linear else layer for layer in wanted)

    def limit(self, keep: int, present: int) -> int:
        """Return how many of `present` tokens a stage keeps if its `keep` is this."""
        return min(keep, present)

    def extra(self, present: int, keep: int) -> int:
        """Return how many merged tokens a stage makes that keeps `keep` of `present` tokens."""
        return 0

    def processed(self, stages: tuple[Stage, ...], layers: int, tokens: int) -> tuple[int, ...]:
        """Return how many patch and merged tokens of the video each layer processes."""
        counts, cuts = [], {stage.cut: stage.keep for stage in stages}
        tokens = self.entering(tokens)
        for layer in range(layers):
            if layer in cuts:
                keep = self.limit(cuts[layer], tokens)
                tokens = keep + self.extra(tokens, keep)
            counts.append(tokens)
        return tuple(counts)

    def check(self, layers: int, linear: Collection[int] = ()) -> None:
        """Check the settings against the number of layers of an LLM, and its layers with linear attention.

        Raises:
            ValueError: The settings do not suit it.
        """
        stages = self.schedule(layers, NOMINAL, linear)
        amounts = sum(self.processed(stages, layers, NOMINAL)) / layers / NOMINAL
        if abs(amounts - self.retention) > EXPLICIT_TOLERANCE:
            raise ValueError(
                f"{self.spec} amounts to retention {amounts:.3f} on the {layers} layers of this LLM: write "
                f"@{amounts:.3f}, or leave its stages out, so that they are solved for the retention"
            )

    def verify(self, counts: Sequence[int], tokens: int, frames: int) -> None:
        """Check that a prefill had the retention that was asked for.

        Args:
            counts: Tokens of a video in each layer.
            tokens: Its patch tokens.
            frames: Its frames.

        Raises:
            RuntimeError: It had another one.
        """
        off = abs(sum(counts) / len(counts) - self.retention * tokens)
        if off > frames + 1 + EXPLICIT_TOLERANCE * tokens * self.by_hand:
            raise RuntimeError(f"{self.spec} left {tuple(counts)} of {tokens} tokens in the layers: this is a bug")

    @property
    def by_hand(self) -> bool:
        """Whether settings, and not `retention`, say how many tokens stay."""
        return False

    def unreachable(self, floor: float, layers: int, remedy: str) -> ValueError:
        """Return the error for a retention at or below the method's floor."""
        return ValueError(
            f"{self.name} cannot reach retention={self.retention} on the {layers} layers of this LLM: its floor is "
            f"{floor:.3f}, and retention has to be above it; {remedy}"
        )

    # ---- which

    def raters(self, visual: Tensor, question: Tensor) -> Tensor | None:
        """Return which text tokens rank the visual ones by their attention.

        Args:
            visual: [V, D], the video's tokens as they enter the LLM.
            question: [Q, D], the text tokens behind them.

        Returns:
            bool [Q]; None for the last token of the prompt.
        """
        return None

    def scores(self, attention: Tensor, rotary: Tensor | None) -> Tensor:
        """Return how much each visual token deserves to stay.

        Args:
            attention: float32 [heads, raters, V], attention probabilities over all keys that a rater sees.
            rotary: float32 [raters, V] if `wants_rotary`, otherwise None.

        Returns:
            float32 [V].
        """
        return attention.mean(dim=(0, 1))

    @property
    def wants_rotary(self) -> bool:
        """Whether `scores` needs `rotary`.

        That is the product of two all-ones vectors, rotated to the positions of rater and token, over sqrt(head size).
        """
        return False

    @property
    def eager(self) -> bool:
        """Whether to rank by the weights that the layer's own eager attention returns."""
        return getattr(self, "attention", "rows") == "eager"

    def merge(self, hidden: Tensor, scores: Tensor) -> Merged | None:
        """Return what becomes of the dropped tokens; None if they are gone.

        Args:
            hidden: [n, D], the dropped tokens as they leave the ranking layer.
            scores: [n], their scores.
        """
        return None


def choose(scores: Tensor, keep: int) -> Tensor:
    """Return where the `keep` highest of scores [V] are, int64 [keep], ascending; of equal scores, the earlier win."""
    return scores.argsort(descending=True, stable=True)[:keep].sort().values


def choose_per_frame(scores: Tensor, frame: Tensor, budgets: Tensor) -> Tensor:
    """Return where the `budgets[t]` highest scores of each frame are.

    If a frame has fewer tokens than its budget, the frames with the most tokens to spare get the rest.

    Args:
        scores: [V].
        frame: int64 [V], the frame of each token.
        budgets: int64 [T].

    Returns:
        int64, indices into scores, ascending.
    """
    present = torch.bincount(frame, minlength=len(budgets))
    given = torch.minimum(budgets, present)
    lacking, spare = int((budgets - given).sum()), (present - given).cpu()
    for _ in range(min(lacking, int(spare.sum()))):
        spare[spare.argmax()] -= 1
    given = present - spare.to(present.device)
    best = scores.argsort(descending=True, stable=True)
    best = best[frame[best].argsort(stable=True)]  # frame by frame, each from its best token down
    rank = torch.arange(len(best), device=best.device) - (present.cumsum(0) - present)[frame[best]]
    return best[rank < given[frame[best]]].sort().values


def layer_numbers(setting: str, value: Any) -> None:
    """Check that a setting is a tuple of ascending layer numbers, counted from 0.

    Raises:
        ValueError: It is not.
    """
    whole = isinstance(value, tuple) and all(isinstance(i, int) and not isinstance(i, bool) for i in value)
    if not whole or not value or value[0] < 0 or any(a >= b for a, b in pairwise(value)):
        raise ValueError(f"{setting}={value!r} must be a tuple of ascending layer numbers, such as (8, 16, 24)")


def require_apart(setting: str, given: Sequence[int], rankers: Sequence[int]) -> None:
    """Check that layers given by hand still differ after the linear ones among them have moved.

    Raises:
        ValueError: They do not.
    """
    if len(set(rankers)) < len(given):
        raise ValueError(
            f"{setting}={tuple(given)!r} are stages at {tuple(rankers)}, the next layers with full attention, which "
            "rank: name each of these once"
        )


def shares_of(setting: str, value: Any) -> None:
    """Check that a setting is a tuple of numbers that are not negative.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(value, tuple) or any(not isinstance(i, (int, float)) or i < 0 for i in value):
        raise ValueError(f"{setting}={value!r} must be a tuple of shares of the visual tokens, such as (0.5, 0.25)")
