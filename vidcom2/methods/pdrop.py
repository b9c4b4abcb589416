"""PyramidDrop: "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
https://arxiv.org/abs/2410.17247, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vidcom2.inside import InsideLLM, Stage, layer_numbers, require_apart, shares_of
from vidcom2.specs import register


@register("pdrop")
@dataclass(frozen=True)
class PDrop(InsideLLM):
    """Before each of several layers, keep the share f of the visual tokens that the last token attends to most.

        score     = mean over heads of softmax(q_last k^T / sqrt(d)), by layer l_i's own projections of its full input
        kept at i = V f^i, i = 1, 2, ...
        R         = (l_1 + (l_2 - l_1) f + (l_3 - l_2) f^2 + (L - l_3) f^3) / L

    Inside the LLM, in the prefill, before the layers l_i: L/4, L/2 and 3L/4 of L layers. The tokens that stay are
    numbered anew at each stage. f is solved for R (0.469 is the paper's f = 0.5). The floor of R is l_1/L, which is
    0.25 unless `layers` says otherwise.

    Unlike the published code, this also takes grouped-query attention, batches, several videos, and a video anywhere
    in the prompt. There is no attention="eager", since the published code computes the one attention row, too.

    Args:
        layers: The l_i; None takes those above. If one has linear attention, the next layer that has not takes over.
        ratios: The share kept from each l_i on, instead of f^i. `retention` must then be the mean that they lead to,
            and token counts are truncated, as in the authors' code.
    """

    layers: tuple[int, ...] | None = None
    ratios: tuple[float, ...] | None = None

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "CVPR 2025"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.17247"
    numbering: ClassVar[Literal["repack", "original"]] = "repack"
    reachable: ClassVar[str] = "above 1/4, where its first stage is; lower with earlier `layers`"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers is not None:
            layer_numbers("layers", self.layers)
            if self.layers[0] == 0:
                raise ValueError(f"layers={self.layers!r}: layer 0 has nothing to rank by yet; start at layer 1")
        if self.ratios is not None:
            shares_of("ratios", self.ratios)
            if self.layers is None or len(self.ratios) != len(self.layers):
                raise ValueError(f"ratios={self.ratios!r} need as many layers, but layers={self.layers!r}")

    @classmethod
    def released(cls, retention: float = 0.46875, **settings: Any) -> PDrop:
        """Build the authors' script: layers 8, 16, 24 with 1/2, 1/4, 1/8. The default R is its mean on 32 layers."""
        return cls(retention, **{"layers": (8, 16, 24), "ratios": (0.5, 0.25, 0.125), **settings})

    @property
    def by_hand(self) -> bool:
        """Whether `ratios` say how many tokens stay."""
        return self.ratios is not None

    def _schedule(self, layers: int, tokens: int, linear: Collection[int]) -> tuple[Stage, ...]:
        wanted = self.layers or tuple(max(1, layers * i // 4) for i in (1, 2, 3))
        if wanted[-1] >= layers:
            raise ValueError(f"layers={wanted!r} are too many for an LLM of {layers} layers")
        at = self.rankers(wanted, layers, linear)
        if self.layers is not None:
            require_apart("layers", self.layers, at)
        at = tuple(sorted(set(at)))
        if self.ratios is not None:
            return tuple(Stage(i, i, int(tokens * r)) for i, r in zip(at, self.ratios, strict=True))
        if self.retention * layers <= at[0]:
            most = math.ceil(self.retention * layers) - 1
            can = [i for i in range(1, layers) if i not in linear]
            latest = max((i for i in can if i <= most), default=0)
            earlier = sorted(set(self.rankers(_earlier(layers, latest), layers, linear))) if latest else []
            example = f"drop earlier, for example with layers={tuple(earlier)}"
            remedy = example if latest else f"no stage can be before layer {can[0]}"
            raise self.unreachable(at[0] / layers, layers, remedy)
        spans = [b - a for a, b in zip((0, *at), (*at, layers), strict=True)]
        low, high = 0.0, 1.0
        for _ in range(60):
            f = (low + high) / 2
            mean = sum(span * f**i for i, span in enumerate(spans)) / layers
            low, high = (f, high) if mean < self.retention else (low, f)
        return tuple(Stage(i, i, max(1, round(tokens * high ** (n + 1)))) for n, i in enumerate(at))


def _earlier(layers: int, latest: int) -> tuple[int, ...]:
    """Stages with a lower floor, the first at layer `latest` or before, for the message."""
    return tuple(sorted({max(1, min(latest, layers // 16)), max(1, layers // 4), max(1, layers // 2)}))
