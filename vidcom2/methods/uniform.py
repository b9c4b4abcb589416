"""Evenly spaced tokens: the control that looks at nothing, as in the tables of https://arxiv.org/abs/2505.14454."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcom2.features import all_finite
from vidcom2.ranking import Ranking
from vidcom2.specs import register


@register("uniform")
@dataclass(frozen=True)
class Uniform(Ranking):
    """Cut the M tokens of each frame, in raster order, into k_t equal stretches and keep the middle of each.

        m_j = floor((j + 1/2) M / k_t)    for j = 0 .. k_t - 1

    Before the LLM. k_t is R·M, rounded so that the total is round(R·T·M).
    """

    ranks_alone: ClassVar[bool] = False

    def rank(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores that are 1 for the tokens m_j and 0 for the others, with the budgets."""
        frames, m = x.shape[:2]
        budgets = self.frame_budgets(x)
        j = torch.arange(m, device=x.device)
        middle = (2 * j + 1) * m // (2 * budgets[:, None].clamp_min(1))  # [T, M]; from j = k_t on, beyond the frame
        scores = torch.zeros((frames, m + 1), device=x.device).scatter_(1, middle.clamp_max(m), 1)[:, :m]
        return scores, budgets, all_finite(x)
