"""Key-value caches whose rows are fewer than the tokens of the chat.

A cache becomes one of these while it is in use, by a change of its class: its tensors stay, and it can still be copied.
`Pruned` is for methods that drop tokens before the LLM, so all layers have the same rows. `Layered` is for methods that
drop tokens inside the LLM, so later layers have fewer rows.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache as memoised
from typing import Any

import torch
from torch import Tensor

from vidcom2.models.masks import append, extend
from vidcom2.models.names import recurrent, valid_new


class RowsFollow:
    """Mixin for a cache with notes on the rows of the batch: they follow where generate() repeats or reorders rows."""

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply `change` to every noted tensor [B, ...]."""
        raise NotImplementedError

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows `beam_idx`, int64 [B], of the batch, as beam search does after each step."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._rows(lambda x: x[beam_idx.to(x.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch."""
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self._rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Take the rows `indices`, int64, of the batch."""
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._rows(lambda x: x[indices.to(x.device)])


class Pruned(RowsFollow):
    """What a cache learns when tokens are dropped before the LLM.

    It tells its logical length, dropped tokens included. So everything else in generate() (positions, chat turns on the
    same cache, prompt lookup) counts as it would without compression.

    Attributes:
        shift: Logical length less the rows that are there.
        valid: bool [B, n], which of the first n rows are no padding; later rows are none. None if no row is padding.
        behind: int64 [B], what positions="repack" subtracts from positions that are counted without compression. None
            for positions="original".
        holder: Weak reference to the hooks that keep masks and positions right. It is weak because caches are copied.
    """

    shift: int
    valid: Tensor | None
    behind: Tensor | None
    holder: Any

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the logical length."""
        return super().get_seq_length(layer_idx) + self.shift  # type: ignore[misc]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return how many rows are there."""
        return super().get_seq_length(layer_idx)  # type: ignore[misc]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return transformers' sizes of the mask.

        Raises:
            RuntimeError: If the hooks are off that alone keep this cache's masks or positions right.
        """
        holder = self.holder()
        if (self.valid is not None or self.behind is not None) and (holder is None or not holder.attached):
            raise RuntimeError(
                "this key-value cache was filled under a compressor that is off now, and has padding or repacked "
                "positions that only its hooks keep right: go on inside the with-block"
            )
        return super().get_mask_sizes(query_length, layer_idx)  # type: ignore[misc]

    def crop(self, tokens_to_remove: int) -> None:
        """Remove rows at the end."""
        # transformers below 5.18 take positive numbers for a final length, here the logical one.
        super().crop(tokens_to_remove - self.shift if tokens_to_remove > 0 else tokens_to_remove)  # type: ignore[misc]

    def expect(self, live: Tensor) -> None:
        """Note which of the new rows are no padding, bool [B, n], before the LLM adds them."""
        require_no_gaps(self, live)
        if self.valid is not None or not bool(live.all()):
            self.valid = append(self.valid, self.get_query_offset(), live)

    def mask(self, live: Tensor) -> Tensor | None:
        """Return the mask bool [B, rows + n] of the rows that are there and of the expected ones, bool [B, n].

        It is None where nothing needs a mask, so that attention keeps its fast paths.
        """
        rows = int(self.get_query_offset()) + live.shape[1]
        if self.valid is not None:
            return extend(self.valid, rows)
        return live.new_ones(len(live), rows) if self.is_compileable else None  # type: ignore[attr-defined]

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        self.valid = None if self.valid is None else change(self.valid)
        self.behind = None if self.behind is None else change(self.behind)


def require_no_gaps(cache: Any, live: Tensor) -> None:
    """Refuse padding behind the rows of a cache with recurrent states, which would run through them and change them.

    Args:
        cache: The cache, `Pruned` or `Layered`.
        live: bool [B, n], which of the new rows are no padding.

    Raises:
        ValueError: There is such padding.
    """
    if recurrent(cache) and int(cache.get_query_offset()) and not bool(live.all()):
        raise ValueError(
            "this call has padding behind rows that the key-value cache holds already, because the prompts of the "
            "batch (or what is left of their videos) differ in length. The model's layers with linear attention would "
            "take it into their recurrent states and answer wrongly: continue one prompt at a time"
        )


def pruned(cache: Any, holder: Any, valid: Tensor | None) -> Any:
    """Make a cache `Pruned`, if it is not yet.

    Args:
        cache: Any cache of transformers.
        holder: The hooks that keep it right.
        valid: bool [B, rows], which rows of a cache that is not pruned yet are no padding; None if unknown.
    """
    if not isinstance(cache, Pruned):
        cache.__class__ = _pruned_class(type(cache))  # type: ignore[arg-type]
        cache.shift, cache.behind, cache.valid = 0, None, None
        if valid is not None and not bool(valid.all()):
            cache.valid = valid
    cache.holder = weakref.ref(holder)
    return cache


@memoised
def _pruned_class(cls: Any) -> type:
    return type(f"Pruned{cls.__name__}", (Pruned, cls), {})


@dataclass
class Segment:
    """Neighbouring layers that have the same rows in a `Layered` cache.

    Attributes:
        first: The first of these layers.
        valid: bool [B, n], which of the first n rows of their caches are no padding; later rows are none. None if no
            row is padding.
        behind: int64 [B], what to subtract from the model's rotary positions. None for nothing.
    """

    first: int
    valid: Tensor | None
    behind: Tensor | None


class Layered(RowsFollow):
    """What a cache learns when tokens are dropped inside the LLM.

    For generate() it is as long as it would be without compression.

    Attributes:
        segments: The layers with fewer rows, in order.
        shift: Logical length less the rows of the first layer that has any. It is 0 unless the first segment begins
            with layer 0, or all layers before it are linear.
        holder: Weak reference to the hooks that keep masks and positions right. It is weak because caches are copied.
    """

    segments: list[Segment]
    shift: int
    holder: Any

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the logical length or, for a later layer than 0, the rows that are there."""
        return self.rows(layer_idx) + (0 if layer_idx else self.shift)

    def rows(self, layer_idx: int) -> int:
        """Return the rows that are there."""
        return super().get_seq_length(layer_idx)  # type: ignore[misc]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return the rows that are there, which new ones follow in the mask."""
        return self.rows(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return transformers' sizes of the mask.

        Raises:
            RuntimeError: If the hooks are off that alone keep this cache's masks and positions right.
        """
        holder = self.holder()
        if holder is None or not holder.attached:
            raise RuntimeError(
                "this key-value cache was filled under a compressor that is off now, whose hooks alone keep masks and "
                "positions of its shortened layers right: go on inside the with-block"
            )
        return super().get_mask_sizes(query_length, layer_idx)  # type: ignore[misc]

    def crop(self, tokens_to_remove: int) -> None:
        """Remove as many rows at the end of every layer."""
        if tokens_to_remove > 0:  # transformers below 5.18: a final length, of the layers that have all rows
            tokens_to_remove = -max(0, self.get_seq_length() - tokens_to_remove)
        if tokens_to_remove:
            super().crop(tokens_to_remove)  # type: ignore[misc]

    def _rows(self, change: Callable[[Tensor], Tensor]) -> None:
        for segment in self.segments:
            segment.valid = None if segment.valid is None else change(segment.valid)
            segment.behind = None if segment.behind is None else change(segment.behind)


def layered(cache: Any, holder: Any, segments: Sequence[Segment], length: int) -> None:
    """Make a cache `Layered`, with these segments, these hooks and this logical length."""
    cache.shift = length - int(cache.get_seq_length())
    cache.__class__ = _layered_class(type(cache))  # type: ignore[arg-type]
    cache.segments, cache.holder = list(segments), weakref.ref(holder)


@memoised
def _layered_class(cls: Any) -> type:
    return type(f"Layered{cls.__name__}", (Layered, cls), {})


def valid_rows(kwargs: dict[str, Any], length: int, cache: Any) -> Tensor | None:
    """Return which of the new rows of a language model's call are no padding, bool [B, length].

    None where the call has no mask, or has one that was built for the unpruned sequence and does not tell.
    """
    past = int(cache.get_seq_length()) if cache is not None else 0
    return valid_new(kwargs, length, None if isinstance(cache, Pruned) else past)


def positions_of(kwargs: dict[str, Any], embeds: Tensor, cache: Any) -> Tensor:
    """Return the rotary positions of a language model's call, [B, N] or, for mRoPE, [3 or 4, B, N].

    A call without positions counts on from the cache.
    """
    batch, length = embeds.shape[:2]
    positions = kwargs.get("position_ids")
    if positions is None:
        past = int(cache.get_seq_length()) if cache is not None else 0
        positions = torch.arange(past, past + length, device=embeds.device)[None]
    return positions.expand(*positions.shape[:-2], batch, length)
