"""One forward of a language model whose later layers have fewer rows, and the forwards that follow on its cache."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from torch import Tensor

from vidcom2.models.masks import append, extend
from vidcom2.models.names import causal_mask


class Pass:
    """One forward of the language model.

    Args:
        lm: The language model.
        cache: Its key-value cache; None for none.

    Attributes:
        positions: Rotary positions that `rotary_emb` was called with, [B or 1, n] or, for mRoPE, [3, B or 1, n].
        overrides: Arguments for layers whose rows are fewer, by the first of these layers.
    """

    def __init__(self, lm: Any, cache: Any):
        self.lm, self.cache = lm, cache
        self.positions: Tensor | None = None
        self.overrides: dict[int, dict[str, Any]] = {}

    def before_layer(self, index: int, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Return the rows [B, n, D] that layer `index` gets, and put its other arguments into `kwargs`."""
        raise NotImplementedError

    def mask(self, index: int, hidden: Tensor, valid: Tensor | None) -> Any:
        """Return the attention mask of layer `index`. valid: bool [B, rows], rows that are no padding."""
        return causal_mask(self.lm, hidden, valid, self.cache, index)


class Step(Pass):
    """Further tokens on a cache that a prefill made `Layered`.

    Args:
        lm: The language model.
        cache: Its key-value cache.
        length: How many tokens are new.
        live: bool [B, length], which of them are no padding; None if all.
    """

    def __init__(self, lm: Any, cache: Any, length: int, live: Tensor | None):
        super().__init__(lm, cache)
        self.length = length
        self.firsts = [segment.first for segment in cache.segments]
        for segment in cache.segments:
            rows = cache.get_seq_length(segment.first)
            if live is not None and not bool(live.all()):
                segment.valid = append(segment.valid, rows, live)
            elif segment.valid is not None:
                segment.valid = segment.valid[:, :rows]  # a cropped row may have been padding

    def before_layer(self, index: int, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Give a layer with fewer rows the mask and the rotary embedding of its own rows."""
        which = bisect_right(self.firsts, index) - 1
        if which < 0:
            return hidden
        segment = self.cache.segments[which]
        if which not in self.overrides:
            valid = segment.valid
            if valid is not None:
                valid = extend(valid, self.cache.get_seq_length(index) + self.length)
            self.overrides[which] = {"attention_mask": self.mask(index, hidden, valid), "position_ids": None}
            if segment.behind is not None:
                assert self.positions is not None
                positions = self.positions - segment.behind[:, None]
                self.overrides[which]["position_embeddings"] = self.lm.rotary_emb(hidden, positions)
        kwargs |= self.overrides[which]
        return hidden
