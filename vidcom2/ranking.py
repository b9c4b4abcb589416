"""Base of the methods that rank tokens: budgets for the frames, and the best tokens of each frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vidcom2.budget import equal_budgets, total_budget
from vidcom2.compressor import Compressor, Kept
from vidcom2.features import all_finite, require_finite
from vidcom2.frame_adjustment import FrameAdjustment


@dataclass(frozen=True)
class Ranking(Compressor):
    """Base of methods that rank tokens: they say which of a frame's tokens are best, and any budgets will do.

    fca: gives the frames VidCom²'s budgets ("name+fca"); None, equal ones. Either way (unless fca.rounding says
        otherwise) they add up to round(R·T·M), but never to less than one token for each frame.

    A subclass has `scores`; one that does more with its budgets than keep the best has `keep` instead.
    """

    fca: FrameAdjustment | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fca is not None and not isinstance(self.fca, FrameAdjustment):
            raise ValueError(f"fca={self.fca!r} must be a FrameAdjustment or None; in a spec, write {self.name}+fca")

    def scores(self, x: Tensor) -> Tensor:
        """How much each token of x [T, M, D] deserves to stay: [T, M]; only the order within a frame matters."""
        raise NotImplementedError

    def budgets(self, x: Tensor) -> Tensor:
        """Tokens that each frame of x [T, M, D] may keep: int64 [T] in [1, M]. Does not wait for the device."""
        if self.fca is not None:
            return self.fca.budgets(x, self.retention)
        frames, m = x.shape[:2]
        return equal_budgets(total_budget(self.retention, frames, m), frames).to(x.device)

    def keep(self, x: Tensor, budgets: Tensor, size: int) -> Kept:
        """Keep budgets[t] of the tokens of each frame t of x [T, M, D]; size is the sum of the budgets."""
        return Kept(top_per_frame(self.scores(x), budgets, size), budgets)

    def _select(self, x: Tensor) -> Kept:
        budgets = self.budgets(x)
        size, finite = torch.stack([budgets.sum(), all_finite(x).long()]).tolist()  # the only host synchronisation
        require_finite(bool(finite), x)
        return self.keep(x, budgets, size)


def top_per_frame(scores: Tensor, budgets: Tensor, size: int) -> Tensor:
    """Positions of the `budgets[t]` highest scores of each frame, ascending in the flattened T·M tokens.

    scores: [T, M]; budgets: int64 [T] with sum `size`. Returns int64 [size]. Equal scores: the earlier token.
    Vectorised over frames, and without a host synchronisation, since the caller knows the size.
    """
    frames, m = scores.shape
    best = scores.argsort(dim=1, descending=True, stable=True)
    first = torch.arange(m, device=scores.device) < budgets[:, None]
    keep = torch.empty_like(first).scatter_(1, best, first).flatten()
    # Scatter each kept position to its place in the output, counted from 1; the rest goes to a spare slot 0.
    place = keep.cumsum(0) * keep
    index = torch.empty(size + 1, dtype=torch.int64, device=scores.device)
    return index.scatter_(0, place, torch.arange(frames * m, device=scores.device))[1:]
