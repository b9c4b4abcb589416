"""`Ranking`, the base of the methods that give every frame a budget and keep its best tokens."""

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
    """Base of methods that rank the tokens of each frame; any budgets for the frames will do.

        keep the k_t tokens of frame t with the highest scores, in their original order

    A subclass defines `scores`. It may also override `budgets` if the k_t are its own, `keep` if it does more than
    keep the best, and `rank` if scores and budgets come from one measurement.

    Args:
        fca: Gives the frames VidCom²'s budgets ("name+fca"); None gives them equal ones. Unless `fca.rounding` says
            otherwise, the budgets sum to round(R·T·M), but never to less than one token per frame.
    """

    fca: FrameAdjustment | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        FrameAdjustment.check(self.fca, self.name)

    def scores(self, x: Tensor) -> Tensor:
        """Return how much each token deserves to stay; only the order within a frame matters.

        Args:
            x: Features [T, M, D]. They may hold NaN or Inf; the scores are not used then.

        Returns:
            [T, M], of any dtype that sorts, on the device of x.
        """
        raise NotImplementedError

    def budgets(self, x: Tensor) -> Tensor:
        """Return k_t, the tokens that each frame of x [T, M, D] may keep, without a wait for the device.

        Returns:
            int64 [T], each in [1, M] (or in [0, M] if a method drops whole frames), on the device of x.
        """
        if self.fca is not None:
            return self.fca.budgets(x, self.retention)
        frames, m = x.shape[:2]
        return equal_budgets(total_budget(self.retention, frames, m), frames).to(x.device)

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        if self.retention == 1 or (self.fca is not None and self.fca.rounding != "exact"):
            return super().total(frames, m)
        return total_budget(self.retention, frames, m)

    def rank(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores [T, M], the budgets int64 [T], and whether x is finite (0-d bool tensor).

        Nothing here may wait for the device.
        """
        return self.scores(x), self.budgets(x), all_finite(x)

    def keep(self, x: Tensor, scores: Tensor, budgets: Tensor, size: int) -> Kept:
        """Return the tokens that stay, given the frames' budgets.

        Args:
            x: Features [T, M, D], without NaN and Inf.
            scores: [T, M], from `rank`.
            budgets: int64 [T], from `rank`.
            size: The sum of the budgets.
        """
        return Kept(top_per_frame(scores, budgets, size), budgets)

    def _select(self, x: Tensor) -> Kept:
        scores, budgets, finite = self.rank(x)
        size, sound = torch.stack([budgets.sum(), finite.long()]).tolist()  # the only host synchronisation
        require_finite(bool(sound), x)
        return self.keep(x, scores, budgets, size)


def top_per_frame(scores: Tensor, budgets: Tensor, size: int) -> Tensor:
    """Return where the `budgets[t]` highest scores of each frame t are. Of equal scores, the earlier token wins.

    There is no loop over frames, and no host synchronisation, since the caller knows the size.

    Args:
        scores: [T, M].
        budgets: int64 [T].
        size: The sum of the budgets.

    Returns:
        int64 [size], positions in the flattened T·M tokens, ascending.
    """
    frames, m = scores.shape
    best = scores.argsort(dim=1, descending=True, stable=True)
    first = torch.arange(m, device=scores.device) < budgets[:, None]
    keep = torch.empty_like(first).scatter_(1, best, first).flatten()
    # Scatter each kept position to its slot in the output, counted from 1. All others go to the spare slot 0.
    slot = keep.cumsum(0) * keep
    index = torch.empty(size + 1, dtype=torch.int64, device=scores.device)
    return index.scatter_(0, slot, torch.arange(frames * m, device=scores.device))[1:]
