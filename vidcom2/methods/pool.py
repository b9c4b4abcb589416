"""Average pooling: the control that merges neighbours without looking at them, as in table 4 of
https://arxiv.org/abs/2609.35394.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vidcom2.budget import total_budget
from vidcom2.compressor import Compressor, Kept
from vidcom2.features import all_finite, require_finite
from vidcom2.pieces.cells import cells
from vidcom2.pieces.merging import group_means
from vidcom2.settings import check_at_least_one
from vidcom2.specs import register


@register("pool")
@dataclass(frozen=True)
class Pool(Compressor):
    """Cut each frame into k nearly equal cells, and replace the tokens of a cell by their mean.

    Before the LLM. `pieces.cells` says how a frame is cut. Where k = h · w fits, this is adaptive average pooling to h
    rows and w columns; for other k, some rows of cells have one cell more. k is R·M, rounded so that the total is
    round(R·T·M). A mean stands where the token in the middle of its cell stood.

    Args:
        span: The most frames in a cell. None takes round(R^(-1/3)): cells then shrink time as much as height and
            width. With more than 1, runs of so many frames are pooled as one. Where R needs more tokens than the runs
            have places, runs are shorter.
    """

    span: int | None = 1

    presets: ClassVar[tuple[str, ...]] = ("time",)
    merges: ClassVar[bool] = True
    uses_grid: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.span is not None:
            check_at_least_one(self, "span")

    @classmethod
    def time(cls, retention: float = 0.25, **settings: Any) -> Pool:
        """Build the form over time and space: `span` follows from R. It is 1 above R = 0.296, and 2 above 0.064."""
        return cls(retention, **{"span": None, **settings})

    def total(self, frames: int, m: int) -> int:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        return total_budget(self.retention, frames, m)

    def cells(self, frames: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Return the cell of each token, int64 [T·M], and the token in the middle of each cell, int64 [N]."""
        span = round(self.retention ** (-1 / 3)) if self.span is None else self.span
        return cells(frames, rows, columns, self.total(frames, rows * columns), span)

    def _select_grid(self, x: Tensor, rows: int, columns: int) -> Kept:
        require_finite(bool(all_finite(x)), x)
        frames, m = x.shape[:2]
        owner, middle = (each.to(x.device) for each in self.cells(frames, rows, columns))
        merged, _ = group_means(x.flatten(0, 1), owner, len(middle))
        return Kept(middle, torch.bincount(middle // m, minlength=frames), merged.to(x.dtype))
