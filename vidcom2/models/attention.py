"""Attention rows of one layer, computed from its queries and keys, so that SDPA and flash attention stay on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidcom2.features import full_precision


@dataclass(frozen=True)
class Rotary:
    """The rotary embedding of one sequence.

    Attributes:
        attention: The layer's attention module. Its source file has the function that applies the embedding.
        cos: [1, n, d].
        sin: [1, n, d].
    """

    attention: Any
    cos: Tensor
    sin: Tensor

    def turn(self, states: Tensor, rows: Tensor | None = None) -> Tensor:
        """Apply the embedding, or its `rows`, to queries or keys [1, heads, n, d]."""
        apply = sys.modules[type(self.attention).__module__].apply_rotary_pos_emb
        cos, sin = (self.cos, self.sin) if rows is None else (self.cos[:, rows], self.sin[:, rows])
        return apply(states, states, cos, sin)[0]

    def product(self, raters: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what the embedding makes of the product of two all-ones vectors over sqrt(d), float32 [Q, v].

        Args:
            raters: int64 [Q], rows of the queries.
            rows: int64 [v], rows of the keys.
            dtype: Of the states that the layer turns.
        """
        d = self.attention.head_dim
        turned = self.turn(self.cos.new_ones(1, 1, self.cos.shape[1], d, dtype=dtype))[0, 0].float()
        return turned[raters] @ turned[rows].mT / d**0.5


def rotary_of(attention: Any, embeddings: tuple[Tensor, Tensor], row: int, device: torch.device) -> Rotary:
    """Return the rotary embedding of one row of the batch, from (cos, sin), each [B or 1, n, d]."""
    cos, sin = (part.to(device) for part in embeddings)
    return Rotary(attention, *(part[row : row + 1] if len(part) > 1 else part for part in (cos, sin)))


class AttentionRows:
    """Attention probabilities of one layer and one sequence, for the rows that are asked for.

    Args:
        layer: The layer.
        hidden: [1, n, D], its input.
        rotary: The rotary embedding of the sequence.
    """

    def __init__(self, layer: Any, hidden: Tensor, rotary: Rotary):
        self.attention, self.rotary = layer.self_attn, rotary
        self.x = layer.input_layernorm(hidden)
        keys = self.attention.k_proj(self.x)
        heads = keys.shape[-1] // self.attention.head_dim
        self.key = rotary.turn(_heads(self.attention, keys, heads, "k"))[0].float()  # [key-value heads, n, d]

    def of(self, raters: Tensor, live: Tensor) -> Tensor:
        """Return float32 [heads, Q, n], the probabilities over all rows that a rater sees.

        Args:
            raters: int64 [Q], the rows that attend.
            live: bool [n], rows that are no padding.
        """
        heads = len(self.key) * self.attention.num_key_value_groups
        states = self.attention.q_proj(self.x[:, raters])
        query = self.rotary.turn(_heads(self.attention, states, heads, "q"), raters)[0].float()
        query = query.unflatten(0, (len(self.key), -1))  # [key-value heads, queries of each, Q, d]
        with full_precision(self.x.device):
            logits = (query.flatten(1, 2) @ self.key.mT).view(*query.shape[:-1], -1) * self.attention.scaling
        seen = live & (torch.arange(len(live), device=live.device) <= raters[:, None])
        return logits.masked_fill(~seen, -torch.inf).softmax(dim=-1).flatten(0, 1)


def _heads(attention: Any, states: Tensor, heads: int, which: str) -> Tensor:
    """Queries or keys without rotary embedding, [1, heads, n, d], of projected states [1, n, heads·d].

    Qwen3.5 projects to [1, n, heads·2d]: behind each head's query is a gate for its output.
    """
    states = states.unflatten(-1, (heads, -1))[..., : attention.head_dim]
    norm = getattr(attention, f"{which}_norm", None)
    return (states if norm is None else norm(states)).transpose(1, 2)
