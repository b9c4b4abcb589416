"""The optimisers: Muon for weight matrices, AdamW for everything else.

With Muon (https://kellerjordan.github.io/posts/muon/, here PyTorch's) the lessons take a third of the steps that they
take with AdamW alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

WEIGHT_DECAY = 0.02


class Optimisers:
    """Muon for the matrices that turn features into features, AdamW for embeddings, heads, biases and norms.

    Args:
        parameters: Names and parameters. A matrix with "embed" in its name is an embedding.
        share: AdamW's learning rate as a share of Muon's.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], share: float = 0.5):
        named = list(parameters)
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
        is_matrix = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in is_matrix]
        muon = torch.optim.Muon(matrices, lr=0.0, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(others, lr=0.0, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98))
        self.shares = ((muon, 1.0), (adamw, share))
        self.parameters = [p for _, p in named]

    def update(self, loss: Tensor, rate: float) -> None:
        """Take one step at Muon's learning rate `rate`, with gradients clipped to norm 1."""
        for optimiser, _ in self.shares:
            optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser, share in self.shares:
            optimiser.param_groups[0]["lr"] = rate * share
            optimiser.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of both."""
        return [optimiser.state_dict() for optimiser, _ in self.shares]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Continue from what `state_dict` returned."""
        for (optimiser, _), state in zip(self.shares, states, strict=True):
            optimiser.load_state_dict(state)
