"""`Ranking`, the base of the methods that give every frame a budget and keep its best tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vidcom2.budget import equal_budgets, total_budget
from vidcom2.by_hand import Asked, Budgets, Limits, TokenMask, plain_budgets
from vidcom2.compressor import Compressor, Kept
from vidcom2.features import all_finite, require_finite
from vidcom2.frame_adjustment import FrameAdjustment
from vidcom2.settings import check_at_least_one


@dataclass(frozen=True)
class Ranking(Compressor):
    """Base of methods that rank the tokens of each frame; any budgets for the frames will do.

        keep the k_t tokens of frame t with the highest scores, in their original order

    A subclass defines `scores`. It may also override `own_budgets` if the k_t are its own, `keep` if it does more than
    keep the best, and `rank` if scores and budgets come from one measurement.

    With `budgets`, `mask` or `min_per_frame`, a caller has a say. The video then keeps exactly round(R·T·M) tokens,
    whatever the rounding. What the caller asks for comes first, and the other frames share what is left: by VidCom²'s
    adjustment among themselves, or in proportion to the method's own budgets. If the caller gives every frame a budget,
    the video keeps their sum, which may be less. A video that cannot keep what is asked for is an error
    (`ImpossibleBudgets`).

    Args:
        fca: Gives the frames VidCom²'s budgets ("name+fca"); None gives them equal ones. Unless `fca.rounding` says
            otherwise, the budgets sum to round(R·T·M), but never to less than one token per frame.
        budgets: Tokens of each frame, one entry for each of a video's T frames; None for a frame that shares the rest.
            Or a function of T and M that returns them (`Keep.at` makes one from seconds).
        mask: bool [T, M], tokens that must stay. A frame whose tokens must all stay has the budget M.
        min_per_frame: The fewest tokens of each frame that has no budget of the caller.
    """

    fca: FrameAdjustment | None = field(default=None, kw_only=True)
    budgets: Budgets | Callable[[int, int], Any] | None = field(default=None, kw_only=True)
    mask: TokenMask | None = field(default=None, kw_only=True)
    min_per_frame: int = field(default=1, kw_only=True)

    ranks_alone: ClassVar[bool] = True
    """Whether the scores alone say which tokens of a frame stay, as `mask` needs it."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "budgets" in vars(cls):
            raise TypeError(f"{cls.__name__} defines `budgets`, a setting of the caller: call it `own_budgets`")

    def __post_init__(self) -> None:
        super().__post_init__()
        FrameAdjustment.check(self.fca, self.name)
        check_at_least_one(self, "min_per_frame")
        if self.budgets is not None and not callable(self.budgets):
            object.__setattr__(self, "budgets", plain_budgets(self.budgets))  # the dataclass is frozen
        if self.mask is not None:
            object.__setattr__(self, "mask", TokenMask.of(self.mask))
        if said := self.said:
            if self.retention == 1:
                raise ValueError(f"retention=1 keeps every token, so {said} has no effect: leave one of them out")
            if getattr(self, "form", None) == "released":
                raise ValueError(f"{self.name}.released has fixed budgets and cannot take {said}; {self.name} can")
            if self.mask is not None and not self.ranks_alone:
                raise ValueError(f"{self.name} does not choose tokens one by one and cannot take mask; vidcom2 can")

    @property
    def said(self) -> str:
        """The names of the settings by which the caller has a say, joined by commas."""
        given = {"budgets": self.budgets, "mask": self.mask, "min_per_frame": self.min_per_frame > 1 or None}
        return ", ".join(name for name, value in given.items() if value is not None)

    @property
    def settings(self) -> dict[str, Any]:
        """See `Compressor.settings`. A mask or a function is a text."""
        given = {name: getattr(self, name) for name in ("budgets", "mask")}
        return super().settings | {k: v if v is None or isinstance(v, tuple) else repr(v) for k, v in given.items()}

    def limits(self, frames: int, m: int) -> Limits | None:
        """Return what the caller's say means for a video of T=frames and M=m; None if the caller said nothing.

        Raises:
            ImpossibleBudgets: It does not fit the video or the retention.
        """
        if not self.said:
            return None
        return Asked(self.budgets, self.mask, self.min_per_frame, self.retention).limits(frames, m)

    def scores(self, x: Tensor) -> Tensor:
        """Return how much each token deserves to stay; only the order within a frame matters.

        Args:
            x: Features [T, M, D]. They may hold NaN or Inf; the scores are not used then.

        Returns:
            [T, M], of any dtype that sorts, on the device of x.
        """
        raise NotImplementedError

    def frame_budgets(self, x: Tensor) -> Tensor:
        """Return k_t, the tokens that each frame of x [T, M, D] keeps: `own_budgets`, within the caller's say.

        Returns:
            int64 [T], on the device of x.
        """
        limits = self.limits(*x.shape[:2])
        if limits is None:
            return self.own_budgets(x)
        if self.fca is not None:
            return self.fca.budgets(x, self.retention, limits)
        own = self.own_budgets(x)[limits.free.to(x.device)].float()
        return limits.share(own * limits.left / own.sum().clamp_min(1))

    def own_budgets(self, x: Tensor) -> Tensor:
        """Return the method's own k_t for the frames of x [T, M, D], without a wait for the device.

        Returns:
            int64 [T], each in [1, M] (or in [0, M] if a method drops whole frames), on the device of x.
        """
        if self.fca is not None:
            return self.fca.budgets(x, self.retention)
        frames, m = x.shape[:2]
        return equal_budgets(total_budget(self.retention, frames, m), frames).to(x.device)

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        limits = self.limits(frames, m)
        if limits is not None:
            return limits.total
        if self.retention == 1 or (self.fca is not None and self.fca.rounding != "exact"):
            return super().total(frames, m)
        return total_budget(self.retention, frames, m)

    def rank(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores [T, M], the budgets int64 [T], and whether x is finite (0-d bool tensor).

        Nothing here may wait for the device.
        """
        return self.scores(x), self.frame_budgets(x), all_finite(x)

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
        if self.mask is not None:
            scores = self._masked_first(scores)
        kept = self.keep(x, scores, budgets, size)
        limits = self.limits(*x.shape[:2])
        return kept if limits is None else replace(kept, by_hand=limits.by_hand)

    def _masked_first(self, scores: Tensor) -> Tensor:
        """Return scores with the same order, but with the tokens of `mask` before all others."""
        assert self.mask is not None
        order = scores.argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)
        return self.mask.stay.to(rank.device) * rank.shape[1] - rank


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


def ranks(values: Tensor) -> Tensor:
    """The rank of each of values [T, M] in its row, from 0 for the smallest; of equal ones the earlier comes first."""
    order = values.argsort(dim=1, stable=True)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def window_ranks(scores: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """The rank of each of scores [T, M] among those of its window, int64 [T, M], from 0 for the highest.

    A frame has side · side windows. Where it has fewer rows or columns, some are empty.

    Args:
        scores: [T, M].
        grid: Rows and columns of a frame.
        side: Windows in a row, and in a column.
    """
    band = [torch.arange(n, device=scores.device) * side // n for n in grid]
    window = (band[0][:, None] * side + band[1]).flatten()
    order = scores.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, window[order].argsort(dim=1, stable=True))  # window by window, the best first
    size = (window[:, None] == torch.arange(side**2, device=scores.device)).sum(dim=0)
    start = (size.cumsum(0) - size)[window[order]]
    place = torch.arange(len(window), device=scores.device) - start
    return torch.empty_like(order).scatter_(1, order, place)
