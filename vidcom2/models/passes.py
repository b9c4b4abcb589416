"""One forward of a language model whose later layers have fewer rows, and the forwards that follow on its cache."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from torch import Tensor

from vidcom2.models.caches import require_no_gaps
from vidcom2.models.masks import append, extend
from vidcom2.models.names import causal_mask, linear_layers


class Pass:
    """One forward of the language model.

    Args:
        lm: The language model.
        cache: Its key-value cache; None for none.

    Attributes:
        positions: Rotary positions that `rotary_emb` was called with, [B or 1, n] or, for mRoPE, [3, B or 1, n].
        linear: The layers with linear attention.
        overrides: Arguments for layers whose rows are fewer, by the first of these layers and whether they are linear.
    """

    def __init__(self, lm: Any, cache: Any):
        self.lm, self.cache = lm, cache
        self.positions: Tensor | None = None
        self.linear = linear_layers(lm)
        self.overrides: dict[tuple[int, bool], dict[str, Any]] = {}

    def before_layer(self, index: int, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Return the rows [B, n, D] that layer `index` gets, and put its other arguments into `kwargs`."""
        raise NotImplementedError

    def mask(self, index: int, hidden: Tensor, valid: Tensor | None) -> Any:
        """Return the attention mask of layer `index`. valid: bool [B, rows], rows that are no padding."""
        if index in self.linear:
            return None if valid is None else valid.to(hidden.device)
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
        if live is not None:
            require_no_gaps(cache, live)
        for segment in cache.segments:
            rows = self.rows(segment.first)
            if live is not None and not bool(live.all()):
                segment.valid = append(segment.valid, rows, live)
            elif segment.valid is not None:
                segment.valid = segment.valid[:, :rows]  # a cropped row may have been padding

    def rows(self, first: int) -> int:
        """Return how many rows the caches of a segment hold whose first layer is `first`; linear layers hold none."""
        full = next((i for i in range(first, len(self.lm.layers)) if i not in self.linear), None)
        return 0 if full is None else self.cache.rows(full)

    def before_layer(self, index: int, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Give a layer with fewer rows the mask and the rotary embedding of its own rows."""
        segment_number = bisect_right(self.firsts, index) - 1
        if segment_number < 0 or index in self.linear:  # the new rows are the same for all linear layers
            return hidden
        segment, which = self.cache.segments[segment_number], (self.firsts[segment_number], False)
        if which not in self.overrides:
            valid = segment.valid
            if valid is not None:
                valid = extend(valid, self.cache.rows(index) + self.length)
            self.overrides[which] = {"attention_mask": self.mask(index, hidden, valid), "position_ids": None}
            if segment.behind is not None:
                assert self.positions is not None
                positions = self.positions - segment.behind[:, None]
                self.overrides[which]["position_embeddings"] = self.lm.rotary_emb(hidden, positions)
        kwargs |= self.overrides[which]
        return hidden
