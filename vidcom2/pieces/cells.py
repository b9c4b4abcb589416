"""Cells: a video cut into any number of nearly equal boxes, each of some frames, rows and columns."""

from __future__ import annotations

import torch
from torch import Tensor

from vidcom2.budget import equal_budgets


def cells(frames: int, rows: int, columns: int, count: int, span: int = 1) -> tuple[Tensor, Tensor]:
    """Cut a video into `count` cells. No token is in two of them, and none is left out.

    The frames are cut into runs of `span` at most, as equal as can be. The runs share the cells equally; earlier ones
    get what is left over. A run with k cells is cut into b bands of rows, with b nearest to sqrt(k · rows / columns),
    as cells are square then. Its bands share the k cells as evenly, and each is cut between columns. So all cells of a
    run are alike where b · (k / b) is k, as in plain pooling to b rows and k / b columns.

    Args:
        frames: T.
        rows: Rows of a frame.
        columns: Columns of a frame. Its M = rows · columns tokens come row by row.
        count: How many cells, from T to T·M.
        span: The most frames in a cell. It is lowered to what leaves room for `count` cells.

    Returns:
        int64 [T·M], the cell that each token is in, and int64 [count], ascending, the token in the middle of each cell.
        Of two tokens in the middle, in each of the three directions, it is the first.
    """
    m = rows * columns
    span = max(s for s in range(1, max(1, min(span, frames)) + 1) if count <= -(-frames // s) * m)
    runs = -(-frames // span)
    budgets = equal_budgets(count, runs)
    first = budgets.cumsum(0) - budgets  # of each run, among the cells
    run = _part(torch.arange(frames), runs, frames)
    middle_frame = _middle(torch.arange(runs), runs, frames)
    owner, middle = torch.empty(frames, m, dtype=torch.int64), torch.empty(count, dtype=torch.int64)
    for size in budgets.unique().tolist():  # two at most
        own, centre = _frame_cells(rows, columns, size)
        alike = budgets == size
        here = alike[run]
        owner[here] = first[run[here], None] + own
        middle[(first[alike, None] + torch.arange(size)).flatten()] = (middle_frame[alike, None] * m + centre).flatten()
    return owner.flatten(), middle


def _frame_cells(rows: int, columns: int, count: int) -> tuple[Tensor, Tensor]:
    """Cut one frame: int64 [M], the cell of each token, and int64 [count], the token in the middle of each cell."""
    bands = min(max(round((count * rows / columns) ** 0.5), -(-count // columns)), rows, count)
    band = _part(torch.arange(rows), bands, rows)[:, None]
    width = _end(band, bands, count) - _start(band, bands, count)  # in cells
    owner = _start(band, bands, count) + _part(torch.arange(columns), width, columns)

    cell = torch.arange(count)
    band = _part(cell, bands, count)
    width = _end(band, bands, count) - _start(band, bands, count)
    middle = _middle(band, bands, rows) * columns + _middle(cell - _start(band, bands, count), width, columns)
    return owner.flatten(), middle


# `size` things in `parts` parts: part i holds the things from floor(i · size / parts) on.


def _start(part: Tensor, parts: Tensor | int, size: int) -> Tensor:
    """The first thing in a part."""
    return part * size // parts


def _end(part: Tensor, parts: Tensor | int, size: int) -> Tensor:
    """The first thing behind a part."""
    return (part + 1) * size // parts


def _middle(part: Tensor, parts: Tensor | int, size: int) -> Tensor:
    """The thing in the middle of a part; of two, the first."""
    return (_start(part, parts, size) + _end(part, parts, size) - 1) // 2


def _part(thing: Tensor, parts: Tensor | int, size: int) -> Tensor:
    """The part that a thing is in."""
    return ((thing + 1) * parts - 1) // size
