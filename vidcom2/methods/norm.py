"""Tokens with the largest norm: a control of ours, beside those in the tables of https://arxiv.org/abs/2505.14454."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vidcom2.features import lengths
from vidcom2.ranking import Ranking
from vidcom2.specs import register


@register("norm")
@dataclass(frozen=True)
class Norm(Ranking):
    """Keep the k_t tokens of each frame with the largest L2 norm.

        score = ||x||_2

    Before the LLM. k_t is R·M, rounded so that the total is round(R·T·M). `visionzip` and `fastvid` choose a part of
    their tokens by the same norm, so this control shows what the norm alone is worth.
    """

    def scores(self, x: Tensor) -> Tensor:
        """Return the norms [T, M]."""
        return lengths(x)
