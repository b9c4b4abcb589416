"""Grid sampling: the control that keeps tokens at regular places, as in table 4 of https://arxiv.org/abs/2609.35394."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcom2.compressor import Kept
from vidcom2.features import all_finite, require_finite
from vidcom2.methods.pool import Pool
from vidcom2.specs import register


@register("grid")
@dataclass(frozen=True)
class Grid(Pool):
    """Cut each frame into k nearly equal cells, and keep the token in the middle of each as it is.

    Before the LLM. The cells are those of `Pool`, so the two differ in merging alone. `uniform` keeps as many tokens,
    but cuts a frame into stretches of its raster order instead.

    Args:
        span: As in `Pool`. With more than 1, only the frame in the middle of each run of so many frames keeps tokens.
    """

    merges: ClassVar[bool] = False

    def _select_grid(self, x: Tensor, rows: int, columns: int) -> Kept:
        require_finite(bool(all_finite(x)), x)
        frames, m = x.shape[:2]
        index = self.cells(frames, rows, columns)[1].to(x.device)
        return Kept(index, torch.bincount(index // m, minlength=frames))
