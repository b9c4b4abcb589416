"""Where the kept tokens of a video are in its grid, for models with mRoPE.

vLLM computes a prompt's positions before it encodes the video, so it cannot know them. Everything else it can: the text
behind a video begins behind the whole grid, whichever tokens stay. So `prompt_positions` gives every kept token the
start of its grid, the rows of the features carry their places in it (`Placed`), and `PlacedRows` adds both when the
rows enter the LLM. Positions are integers all the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Medium:
    """An image or video in a prompt.

    Attributes:
        offset: The prompt's index of its first row.
        places: int64 [rows, 3], the places (t, h, w) of its rows in its grid. Zeros if they are not known yet.
        end: The first position behind its grid, counted from the grid's start.
    """

    offset: int
    places: Tensor
    end: int

    @classmethod
    def image(cls, offset: int, grid: Tensor) -> Medium:
        """An image or a video that keeps all of its grid, int64 [rows, 3]."""
        return cls(offset, grid, end_of(grid))

    @classmethod
    def compressed(cls, offset: int, rows: int, grid: Tensor) -> Medium:
        """A video of which so many rows of the grid, int64 [T·M, 3], will stay."""
        return cls(offset, torch.zeros(rows, 3, dtype=torch.int64), end_of(grid))


def grid_places(t: int, h: int, w: int, seconds: float = 1.0) -> Tensor:
    """Return the places (t, h, w) of a grid, int64 [t·h·w, 3].

    Args:
        t: Steps in time.
        h: Rows.
        w: Columns.
        seconds: Positions per step in time; fractions are cut off.
    """
    time = (torch.arange(t, dtype=torch.float64) * seconds).long()
    return torch.cartesian_prod(time, torch.arange(h), torch.arange(w)).view(-1, 3)


def end_of(grid: Tensor) -> int:
    """Return the first position behind a grid, int64 [rows, 3]."""
    return int(grid.max()) + 1


def prompt_positions(length: int, media: Sequence[Medium]) -> tuple[Tensor, int]:
    """Return the mRoPE positions of a prompt.

    Args:
        length: Rows of the prompt.
        media: Its images and videos, in order.

    Returns:
        int64 [3, length], and by how much the position behind the prompt is greater than its length.
    """
    positions = torch.empty(3, length, dtype=torch.int64)
    row = begin = 0
    for medium in media:
        text = medium.offset - row
        positions[:, row : medium.offset] = torch.arange(begin, begin + text)
        begin += text
        row = medium.offset + len(medium.places)
        positions[:, medium.offset : row] = begin + medium.places.T
        begin += medium.end
    positions[:, row:] = torch.arange(begin, begin + length - row)
    return positions, begin + length - row - length


class Placed(Tensor):
    """Features [N, ...] whose rows know their places, int64 [N, 3]. A slice of them knows the places of its rows."""

    places: Tensor

    @staticmethod
    def of(rows: Tensor, places: Tensor) -> Placed:
        """Return rows that share their memory with `rows`."""
        placed = rows.as_subclass(Placed)
        placed.places = places
        return placed

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if func is Tensor.__getitem__ and isinstance(args[0], Placed) and isinstance(args[1], slice):
            return Placed.of(result, args[0].places[args[1]])
        return result


class PlacedRows:
    """Mixin of a vLLM model with mRoPE: gives the rows of `Placed` features their places when they enter the LLM."""

    _places: Tensor | None = None

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """Note the places of a step's rows; otherwise as in vLLM."""
        self._places = None
        if multimodal_embeddings is not None and any(isinstance(rows, Placed) for rows in multimodal_embeddings):
            assert is_multimodal is not None, "vLLM says which rows the features are"
            places = torch.zeros(3, len(input_ids), dtype=torch.int64, device=input_ids.device)
            places[:, is_multimodal.to(input_ids.device)] = torch.cat(
                [placed(rows) for rows in multimodal_embeddings]
            ).T
            self._places = places
        base: Any = super()
        return base.embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)

    def forward(self, input_ids: Any, positions: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Add the places to the positions [3, rows]; otherwise as in vLLM."""
        if self._places is not None:
            # In place, because CUDA graphs read this buffer. vLLM fills it anew before each step.
            positions[:, : self._places.shape[1]] += self._places
            self._places = None
        base: Any = super()
        return base.forward(input_ids, positions, *args, **kwargs)


def placed(rows: Tensor) -> Tensor:
    """Return the places of rows, int64 [N, 3]: zeros where the prompt's positions are right already."""
    if isinstance(rows, Placed):
        return rows.places
    return torch.zeros(len(rows), 3, dtype=torch.int64, device=rows.device)
