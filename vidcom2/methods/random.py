"""Random tokens: the control in the tables of VidCom², https://arxiv.org/abs/2505.14454, and of most other papers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidcom2.ranking import Ranking
from vidcom2.specs import register


@register("random")
@dataclass(frozen=True)
class Random(Ranking):
    """Keep k_t tokens of each frame, drawn without replacement, all with the same chance.

        score = a random number in [0, 1)

    Before the LLM. k_t is R·M, rounded so that the total is round(R·T·M).

    Args:
        seed: Seed of the draw. The same seed, T and M give the same choice on every device and in every dtype. So all
            videos of one shape keep the same positions.
    """

    seed: int = 0

    def scores(self, x: Tensor) -> Tensor:
        """Return random numbers [T, M], drawn on the CPU."""
        return torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(self.seed)).to(x.device)
