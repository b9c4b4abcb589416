"""FastV: "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large Vision-Language
Models", https://arxiv.org/abs/2403.06764, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vidcom2.inside import InsideLLM, Stage
from vidcom2.settings import check_choice
from vidcom2.specs import register


@register("fastv")
@dataclass(frozen=True)
class FastV(InsideLLM):
    """After the first K layers, keep the visual tokens that the last token of the prompt attends to most.

        score = mean over heads of softmax(q_last k^T / sqrt(d)), in layer K - 1
        R     = (K + (L - K) f) / L, with L layers and the share f of the tokens that stay from layer K on

    Inside the LLM, once, in the prefill: layers 0..K-1 process all V visual tokens, the others round(f V). Tokens that
    stay keep their positions. f is solved for R, which has the floor K/L.

    This follows the authors' version with a KV cache. Their other versions choose anew for every generated token; this
    one does not, so generate() without a cache gives the same answer.

    Args:
        k: K; the paper uses 2. If layer K - 1 has linear attention, K is as much larger as it takes to rank.
        keep: f, instead of solving for it. `retention` must then be the mean that it leads to.
        attention: "rows" computes the one attention row. "eager" takes it from the layer's attention map, as the
            authors' code does, at its cost in memory and time; load the model with attn_implementation="eager".
    """

    k: int = 2
    keep: float | None = None
    attention: Literal["rows", "eager"] = "rows"

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "ECCV 2024"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.06764"
    reachable: ClassVar[str] = "above K/L: 2 of the LLM's L layers have all tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "attention", ("rows", "eager"))
        if self.k < 1:
            raise ValueError(f"k={self.k!r} must be a positive number of layers; the paper uses 2")
        if self.keep is not None and not 0 <= self.keep <= 1:
            raise ValueError(f"keep={self.keep!r} must be a share of the visual tokens in [0, 1], or None")

    @classmethod
    def released(cls, retention: float = 0.53125, **settings: Any) -> FastV:
        """Build the paper's main setting, half of the tokens from layer 2 on. The default R is that of 32 layers."""
        return cls(retention, **{"keep": 0.5, **settings})

    @property
    def by_hand(self) -> bool:
        """Whether `keep` says how many tokens stay."""
        return self.keep is not None

    def _schedule(self, layers: int, tokens: int, linear: Collection[int]) -> tuple[Stage, ...]:
        (rank,) = self.rankers((self.k - 1,), layers, linear)
        k = rank + 1
        if k >= layers:
            raise ValueError(f"k={k} leaves none of the {layers} layers of this LLM to be shortened")
        share = self.keep
        if share is None:
            share = (self.retention * layers - k) / (layers - k)
            if share <= 0:
                most = math.ceil(self.retention * layers) - 1
                can = [i + 1 for i in range(layers) if i not in linear]  # values of k
                fewer = max((i for i in can if i <= most), default=0)
                remedy = f", and even k={can[0]} would be too many"
                if fewer:
                    remedy = f"; fastv@{self.retention}:k={fewer} can"
                raise self.unreachable(k / layers, layers, f"k={k} layers have all tokens{remedy}")
            return (Stage(rank, k, max(1, round(tokens * share))),)
        return (Stage(rank, k, round(tokens * share)),)
