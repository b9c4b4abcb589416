"""Random tokens: the control in the tables of VidCom², https://arxiv.org/abs/2505.14454, and of most of its rivals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidcom2.ranking import Ranking
from vidcom2.specs import register


@register("random")
@dataclass(frozen=True)
class Random(Ranking):
    """Keep k_t tokens of each frame, drawn without replacement, each as likely as the others.

    Before the LLM. The k_t highest of M random numbers stay. k_t is R·M, rounded so that the total is round(R·T·M).

    seed: of the draw. The same seed and the same T and M give the same choice, on every device and in every dtype; so
        all videos of one shape keep the same positions.
    """

    seed: int = 0

    def scores(self, x: Tensor) -> Tensor:
        return torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(self.seed)).to(x.device)
