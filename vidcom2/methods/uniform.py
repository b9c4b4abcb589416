"""Evenly spaced tokens: the control that looks at nothing, as in the tables of https://arxiv.org/abs/2505.14454."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidcom2.compressor import Kept
from vidcom2.ranking import Ranking
from vidcom2.specs import register


@register("uniform")
@dataclass(frozen=True)
class Uniform(Ranking):
    """Cut each frame's M tokens, in raster order, into k_t equal stretches and keep the middle of each.

        m_j = floor((j + 1/2) M / k_t)    for j = 0 .. k_t - 1

    Before the LLM. k_t is R·M, rounded so that the total is round(R·T·M).
    """

    def keep(self, x: Tensor, budgets: Tensor, size: int) -> Kept:
        frames, m = x.shape[:2]
        frame = torch.arange(frames, device=x.device).repeat_interleave(budgets, output_size=size)
        j = torch.arange(size, device=x.device) - (budgets.cumsum(0) - budgets)[frame]
        return Kept(frame * m + (2 * j + 1) * m // (2 * budgets[frame]), budgets)
