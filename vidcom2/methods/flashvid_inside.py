"""FlashVID as a whole, before the LLM and inside it: "FlashVID: Efficient Video Large Language Models via Training-free
Tree-based Spatiotemporal Token Merging", https://arxiv.org/abs/2602.08024, appendix C.2 and C.3.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from vidcom2.compressor import Kept
from vidcom2.inside import InsideLLM, Stage
from vidcom2.methods.flashvid import FlashVid
from vidcom2.specs import register


@register("flashvid-inside")
@dataclass(frozen=True)
class FlashVidInside(InsideLLM):
    """Give the LLM more tokens than R asks for, chosen and merged by `flashvid`, and drop some of them late inside it.

        before  `flashvid` keeps N tokens, with the retention e R
        inside  layers 0..K-1 process these; from layer K on, the share f of them that the last token of the prompt
                attends to most in layer K - 1, as in FastV
        R     = e R (K + (L - K) f) / L, with L layers: R is the mean over the layers

    The tokens that enter the LLM are chosen from its input, before its first layer. They keep their positions. K and e
    are given, and f is solved for. With 28 layers, these are the authors' K = 20, e = 1.25 and f = 0.3.

    Args:
        form: The form of `flashvid`. See the classmethod `released`.
        expansion: e. If e R is more than 1, it is 1/R.
        k: K. None takes 5/7 of the layers, rounded down, or as many fewer as it takes to rank, if layer K - 1 has
            linear attention. If such a K is given, it is as much larger.
        keep: f, for "released" only.
        alpha: Like `link`, `segments`, `tau` and `neighbours`, a setting of `flashvid`.
    """

    form: Literal["mended", "released"] = "mended"
    expansion: float = 1.25
    k: int | None = None
    keep: float | None = None
    alpha: float = 0.7
    link: float = 0.8
    segments: int = 8
    tau: float = 0.9
    neighbours: int = 7

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "ICLR 2026"
    paper: ClassVar[str] = "https://arxiv.org/abs/2602.08024"
    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    reachable: ClassVar[str] = "any, as a mean over the layers; `released`: about R, if the LLM has 28 layers"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expansion < 1:
            raise ValueError(f"expansion={self.expansion!r} must be at least 1; the paper uses 1.25")
        if self.k is not None and self.k < 1:
            raise ValueError(f"k={self.k!r} must be a positive number of layers; the paper uses 20 of 28")
        if self.form == "released" and (self.k is None or self.keep is None):
            raise ValueError("form='released' needs k and keep: write flashvid-inside.released, which has the authors'")
        if self.keep is not None and (self.form != "released" or not 0 <= self.keep <= 1):
            raise ValueError(
                f"keep={self.keep!r} must be in [0, 1] and needs flashvid-inside.released; flashvid-inside solves for R"
            )
        self._first()

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> FlashVidInside:
        """Build the authors' settings for LLMs of 28 layers: e = 1.25, K = 20, f = 0.3; `flashvid.released` before.

        These amount to R on 28 layers. On others `retention` must be the mean that they lead to, or k and keep others:
        for the 36 layers of Qwen3-VL-8B, the authors' scripts have k=28:keep=0.1. ceil(f N) tokens stay.

        On LLaVA, the authors number the tokens that enter the LLM anew. Here they keep their positions, as on Qwen.
        """
        return cls(retention, **{"form": "released", "k": 20, "keep": 0.3, **settings})

    @property
    def by_hand(self) -> bool:
        """Whether `keep` says how many tokens stay."""
        return self.keep is not None

    def _first(self) -> FlashVid:
        """The method before the first layer."""
        share = min(self.retention * self.expansion, 1)
        return FlashVid(
            share,
            form=self.form,
            alpha=self.alpha,
            link=self.link,
            segments=self.segments,
            tau=self.tau,
            neighbours=self.neighbours,
        )

    def enter(self, x: Tensor) -> Kept:
        """Return the tokens of x [T, M, D] that enter the first layer, some of them merged."""
        return self._first().select(x)

    def entering(self, tokens: int) -> int:
        """Return how many of a video's `tokens` patch tokens enter the first layer, about."""
        return tokens if self.retention == 1 else max(1, round(self._first().retention * tokens))

    def limit(self, keep: int, present: int) -> int:
        """Return how many of `present` tokens the stage keeps if its `keep` is this."""
        return min(keep, present) if self.keep is None else math.ceil(self.keep * present)

    def _schedule(self, layers: int, tokens: int, linear: Collection[int]) -> tuple[Stage, ...]:
        wanted = self.k or max(1, layers * 5 // 7)
        can = [i for i in range(min(wanted, layers)) if i not in linear]
        rank = can[-1] if can and self.k is None else self.rankers((wanted - 1,), layers, linear)[0]
        k = rank + 1
        if k >= layers:
            raise ValueError(f"k={k} leaves none of the {layers} layers of this LLM to be shortened")
        if self.keep is not None:
            return (Stage(rank, k, math.ceil(self.keep * self.entering(tokens))),)
        spread = self._first().retention / self.retention  # e
        share = (layers / spread - k) / (layers - k)
        if share <= 0:
            raise ValueError(
                f"k={k} leaves nothing to the other {layers - k} layers of this LLM, since {k} layers with "
                f"{spread:.4g} times the tokens are too many: take a smaller k, or an expansion below {layers / k:.4g}"
            )
        return (Stage(rank, k, max(1, round(share * self._first().retention * tokens))),)

    def verify(self, counts: Sequence[int], tokens: int, frames: int) -> None:
        """Check that a prefill had the retention that was asked for; the released form need not have it."""
        if self.form == "mended":
            super().verify(counts, tokens, frames)
