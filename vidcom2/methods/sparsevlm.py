"""SparseVLM: "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference",
https://arxiv.org/abs/2410.04417, section 3, in the two versions that the authors released.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vidcom2.inside import InsideLLM, Merged, Stage, layer_numbers, require_apart, shares_of
from vidcom2.pieces.clustering import centres, nearest_centre
from vidcom2.settings import check_choice
from vidcom2.specs import register

LAYERS, OF = (2, 6, 15), 32
"""The layers that rank, in an LLM of 32 layers."""
TABLES = {
    1: ((66, 30, 17), (238, 48, 26), (303, 110, 36), (300, 200, 110)),
    2: ((66, 34, 20), (246, 54, 28), (238, 108, 60), (300, 200, 118)),
}
"""By version: how many of 576 tokens each stage keeps, for the authors' budgets of "64", "96", "128", "192" tokens."""


@register("sparsevlm")
@dataclass(frozen=True)
class SparseVLM(InsideLLM):
    """Keep the visual tokens that the visually relevant words of the question attend to, and merge some of the others.

        relevance of a word = mean over visual tokens of softmax over words (x_visual x_word^T)
        raters = the words with a relevance above the mean
        score  = mean over heads and raters of the attention probabilities of layer l
        merged = of the d dropped tokens, the n = int(0.3 d) + 1 best, as the means of n // 10 + 1 DPC-KNN clusters

    Inside the LLM, in the prefill, after layers l = 2, 6, 15 of 32 (in proportion for other LLMs). These layers
    themselves still process the tokens that they rank. Merged tokens stand behind those that stay, and all are numbered
    anew.

    The authors have budgets for four mean counts of 576 tokens. Other budgets are interpolated between them, and
    towards none and all, so that the tokens that the layers really process are R on average, merged ones included:
    the authors' "192", "128", "96", "64" of 576 tokens are R = 0.358, 0.252, 0.198, 0.143.

    Unlike the published code, this takes batches, grouped queries and several videos. It clusters without random
    noise, and of equal scores the earlier token wins. If no word is a rater, all words of the question are; if there
    is no question, the last token of the prompt is.

    Args:
        version: 2 is the later "SparseVLM+". It does not merge, and positions are kept. It divides probabilities by
            what rotary embedding does to all-ones vectors; this correction changes sign at a distance of about 1700
            positions, at rotary base 10000.
        layers: The layers that rank; None takes those above. If one has linear attention, the next layer that has not
            takes over.
        shares: The share of the visual tokens that each stage keeps, instead of solving for R. `retention` must then
            be the mean that they lead to.
        heads: For version 2: only so many heads count, those with the highest sum.
        attention: "rows" computes the raters' attention rows. "eager" takes them from the layer's attention map, as
            the authors' code does, at its cost in memory and time; load the model with attn_implementation="eager".
    """

    version: Literal[1, 2] = 1
    layers: tuple[int, ...] | None = None
    shares: tuple[float, ...] | None = None
    heads: int = 14
    attention: Literal["rows", "eager"] = "rows"

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "ICML 2025"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.04417"
    merges: ClassVar[bool] = True
    reachable: ClassVar[str] = "above 3/32, more for the merged tokens: 3 of 32 layers have all tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "version", (1, 2))
        check_choice(self, "attention", ("rows", "eager"))
        if self.layers is not None:
            layer_numbers("layers", self.layers)
        if self.shares is not None:
            shares_of("shares", self.shares)
        if self.layers is not None and len(self.layers) != len(self.shares or LAYERS):
            raise ValueError(f"layers={self.layers!r} need as many shares; without shares, write {len(LAYERS)} layers")
        if self.shares is not None and self.layers is None and len(self.shares) != len(LAYERS):
            raise ValueError(f"shares={self.shares!r} need as many layers")
        if self.heads < 1:
            raise ValueError(f"heads={self.heads!r} must be a positive number; the released code uses 14")

    @classmethod
    def released(cls, retention: float = 0.358, **settings: Any) -> SparseVLM:
        """Build the authors' "192" budgets at layers 2, 6 and 15. The default R is their mean on 32 layers."""
        version = settings.get("version", 1)
        table = TABLES[version if version in (1, 2) else 1][-1]  # __post_init__ refuses other versions
        shares = tuple(budget / 576 for budget in table)
        return cls(retention, **{"layers": LAYERS, "shares": shares, **settings})

    @property
    def numbers(self) -> Literal["repack", "original"]:
        """`positions`, or the version's own if that is None."""
        return self.positions or ("repack" if self.version == 1 else "original")

    @property
    def wants_rotary(self) -> bool:
        """Whether probabilities are corrected for rotary embedding, as in version 2."""
        return self.version == 2

    # ---- when and how many

    def extra(self, present: int, keep: int) -> int:
        """Return how many merged tokens a stage makes that keeps `keep` of `present` tokens."""
        return clusters(recycled(present - keep)) if self.version == 1 and present > keep else 0

    def limit(self, keep: int, present: int) -> int:
        """Return how many tokens a stage keeps. Version 1 drops at least one, which becomes a merged token."""
        return min(keep, present - 1 if self.version == 1 else present)

    @property
    def by_hand(self) -> bool:
        """Whether `shares` say how many tokens stay."""
        return self.shares is not None

    def _schedule(self, layers: int, tokens: int, linear: Collection[int]) -> tuple[Stage, ...]:
        at = self.layers or tuple(round(layer * layers / OF) for layer in LAYERS)
        if self.layers is not None and at[-1] + 1 >= layers:
            raise ValueError(f"layers={at!r} are too many for an LLM of {layers} layers")
        at = self.rankers(at, layers, linear)
        if self.layers is not None:
            require_apart("layers", self.layers, at)

        def stages(shares: tuple[float, ...]) -> tuple[Stage, ...]:
            # In an LLM of few layers, some stages coincide, or no layer is left to be shortened.
            last = {layer: share for layer, share in zip(at, shares, strict=True) if layer + 1 < layers}
            return tuple(Stage(i, i + 1, max(1, round(tokens * share))) for i, share in last.items())

        if self.shares is not None:
            return stages(self.shares)
        if layers < 2:
            raise ValueError(f"{layers} layers are too few: the first has all tokens")
        points = [(0.0,) * 3, *(tuple(b / 576 for b in table) for table in TABLES[self.version]), (1.0,) * 3]

        def at_point(u: float) -> tuple[Stage, ...]:
            i = min(int(u), len(points) - 2)
            return stages(tuple(a + (u - i) * (b - a) for a, b in zip(points[i], points[i + 1], strict=True)))

        def mean(u: float) -> float:
            return sum(self.processed(at_point(u), layers, tokens)) / layers / tokens

        low, high = 0.0, len(points) - 1.0
        if mean(low) > self.retention:
            raise self.unreachable(mean(low), layers, f"for {tokens} tokens")
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if mean(middle) < self.retention else (low, middle)
        return at_point(min((low, high), key=lambda u: abs(mean(u) - self.retention)))

    # ---- which

    def raters(self, visual: Tensor, question: Tensor) -> Tensor | None:
        """Return which words of the question rank, bool [Q]; None if there is no question."""
        if len(question) == 0:
            return None
        relevance = (visual.float() @ question.float().mT).softmax(dim=1).mean(dim=0)
        # Equal words differ by rounding only; none of them is above the mean.
        chosen = relevance > relevance.mean() * (1 + 1e-6)
        return chosen if bool(chosen.any()) else torch.ones_like(chosen)

    def scores(self, attention: Tensor, rotary: Tensor | None) -> Tensor:
        """Return the mean over heads and raters; in version 2 after the correction and over the best heads, [V]."""
        if rotary is not None:
            attention = attention / rotary
            best = attention.sum(dim=(1, 2)).argsort(descending=True, stable=True)[: self.heads]
            attention = attention[best]
        return attention.mean(dim=0).mean(dim=0)

    def merge(self, hidden: Tensor, scores: Tensor) -> Merged | None:
        """Return the best of the dropped tokens as means of clusters; None in version 2."""
        if self.version == 2 or not len(hidden):
            return None
        chosen = scores.argsort(descending=True, stable=True)[: recycled(len(hidden))]
        x = hidden[chosen].float()
        number = clusters(len(x))
        centre = centres(x, number, number)
        belongs = nearest_centre(x, centre) == torch.arange(number, device=x.device)[:, None]  # [C, n]
        belongs = belongs.to(x.dtype)
        mean = belongs @ x / (belongs.sum(dim=1, keepdim=True) + 1e-6)
        return Merged(mean.to(hidden.dtype), chosen[centre])


def recycled(dropped: int) -> int:
    """Return how many of the dropped tokens are merged."""
    return int(0.3 * dropped) + 1


def clusters(tokens: int) -> int:
    """Return into how many clusters so many tokens are merged."""
    return tokens // 10 + 1
