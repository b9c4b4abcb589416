"""Masks of rows: which rows are padding, and how the rows that stay move together."""

from __future__ import annotations

import torch
from torch import Tensor


def extend(valid: Tensor, length: int) -> Tensor:
    """Cut or extend a mask bool [B, n] of rows that are no padding to [B, length]; the rows it adds are none."""
    if valid.shape[1] >= length:
        return valid[:, :length]
    return torch.cat([valid, valid.new_ones(len(valid), length - valid.shape[1])], dim=1)


def append(valid: Tensor | None, rows: int, live: Tensor) -> Tensor:
    """Return the mask bool [B, rows + n] of a cache's rows and of the new ones.

    Args:
        valid: bool [B, any], which of the cache's rows are no padding; None if none is padding.
        rows: How many rows the cache has.
        live: bool [B, n], which of the new rows are no padding.
    """
    before = live.new_ones(len(live), 0) if valid is None else valid
    return torch.cat([extend(before, rows), live], dim=1)


def pad_left(live: Tensor) -> tuple[Tensor, Tensor]:
    """Move the rows that stay to the right end of the sequence, which is cut to the longest of the batch.

    Args:
        live: bool [B, N], rows that stay.

    Returns:
        The column that each row comes from, int64 [B, N'], and which of the N' rows are no padding, bool [B, N'].
    """
    longest = int(live.sum(dim=1).max())
    order = live.int().argsort(dim=1, stable=True)[:, live.shape[1] - longest :]
    return order, live.gather(1, order)


def last_position(positions: Tensor, live: Tensor) -> Tensor:
    """Return the rotary position of the last row that is no padding, int64 [B].

    Args:
        positions: int64 [B, N], or [3 or 4, B, N] for mRoPE, of which the largest counts.
        live: bool [B, N], rows that are no padding.
    """
    column = (live * torch.arange(live.shape[1], device=live.device)).amax(dim=1, keepdim=True)
    last = positions.gather(-1, column.expand(*positions.shape[:-2], *column.shape))[..., 0]
    return last.amax(dim=0) if last.ndim == 2 else last
