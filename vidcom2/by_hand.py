"""The caller's say: how many tokens frames of a video keep by hand, and which tokens must stay.

`Ranking` has it as its settings `budgets`, `mask` and `min_per_frame`. `Limits` is what they mean for one video.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from reprlib import repr as shortened
from typing import Any

import torch
from torch import Tensor

from vidcom2.budget import fill, total_budget

Budgets = tuple[int | None, ...]
"""Tokens of each frame of a video; None for a frame that shares what the others leave."""


class ImpossibleBudgets(ValueError):
    """A video cannot keep what the caller asks for."""


@dataclass(frozen=True, eq=False)
class TokenMask:
    """Which tokens of a video must stay.

    Attributes:
        stay: bool [T, M], on the CPU.
    """

    stay: Tensor

    @classmethod
    def of(cls, mask: Any) -> TokenMask:
        """Make one of a tensor, an array or nested lists of bool [T, M].

        Raises:
            ValueError: It is something else, or names no token.
        """
        if isinstance(mask, TokenMask):
            return mask
        try:
            stay = torch.as_tensor(mask).detach().cpu().clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"mask={shortened(mask)} must be a bool tensor [T, M]") from error
        if stay.dtype != torch.bool or stay.ndim != 2:
            raise ValueError(f"mask is {stay.dtype} of shape {list(stay.shape)}; it must be torch.bool of [T, M]")
        if not bool(stay.any()):
            raise ValueError(f"mask of shape {list(stay.shape)} names no token, so it has no effect: leave it out")
        return cls(stay)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenMask) and torch.equal(self.stay, other.stay)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.stay.numpy().tobytes()).hexdigest()[:8]
        return f"<{int(self.stay.sum())} of {self.stay.shape[0]}x{self.stay.shape[1]}, {digest}>"


def plain_budgets(budgets: Any) -> Budgets:
    """Return budgets as a tuple.

    Args:
        budgets: A list, tuple, array or int64 tensor with one entry for each frame.

    Raises:
        ValueError: An entry is neither None nor a whole number from 0 on, or all are None.
    """
    if hasattr(budgets, "tolist"):
        if len(budgets.shape) > 1:
            raise ValueError(f"budgets is of shape {list(budgets.shape)}; it must be [T], one entry per frame")
        budgets = budgets.tolist()
    if not isinstance(budgets, Sequence) or isinstance(budgets, str):
        raise ValueError(
            f"budgets={shortened(budgets)} must be one entry per frame, or a function of T and M that returns them"
        )
    for t, entry in enumerate(budgets):
        whole = isinstance(entry, Integral) and not isinstance(entry, bool) and int(entry) >= 0
        if entry is not None and not whole:
            raise ValueError(
                f"budgets has {shortened(entry)} for frame {t}; write a number of tokens, or None to share the rest"
            )
    if all(entry is None for entry in budgets):
        raise ValueError(f"budgets={shortened(budgets)} names no frame, so it has no effect: leave it out")
    return tuple(None if entry is None else int(entry) for entry in budgets)


@dataclass(frozen=True)
class Asked:
    """What a caller asks for.

    Attributes:
        budgets: Tokens of each frame, or a function that returns them for T and M. None: nothing.
        mask: Tokens that must stay. None: none.
        least: Tokens that every frame keeps at least.
        retention: R.
    """

    budgets: Budgets | Callable[[int, int], Any] | None
    mask: TokenMask | None
    least: int
    retention: float

    def limits(self, frames: int, m: int) -> Limits:
        """Return what that means for a video of T=frames with M=m.

        Raises:
            ImpossibleBudgets: It does not fit the video or the retention.
        """
        given = self._given(frames, m)
        stay = torch.zeros(frames, dtype=torch.int64) if self.mask is None else self._masked(frames, m)
        budgets = [m if k is None and n == m else k for k, n in zip(given, stay.tolist(), strict=True)]
        free = [t for t in range(frames) if budgets[t] is None]
        least = torch.tensor(
            [max(self.least, n) if k is None else k for k, n in zip(budgets, stay.tolist(), strict=True)]
        )
        most = torch.tensor([m if k is None else k for k in budgets])
        self._check(budgets, stay.tolist(), m)
        wanted, need = total_budget(self.retention, frames, m), int(least.sum())
        if need > wanted:
            raise ImpossibleBudgets(self._too_much(budgets, stay.tolist(), need, wanted, m))
        total = min(wanted, int(most.sum()))
        if total == 0:
            raise ImpossibleBudgets("budgets keep no token of any frame: leave at least one")
        named = sum(k for k in budgets if k is not None)
        by_hand = tuple(k if k is not None else n or None for k, n in zip(budgets, stay.tolist(), strict=True))
        return Limits(least, most, total, torch.tensor(free, dtype=torch.int64), total - named, by_hand)

    def _given(self, frames: int, m: int) -> Budgets:
        if self.budgets is None:
            return (None,) * frames
        given = plain_budgets(self.budgets(frames, m)) if callable(self.budgets) else self.budgets
        if len(given) != frames:
            raise ImpossibleBudgets(
                f"budgets has {len(given)} entries, and this video has {frames} frames: give one for each "
                "(a model that merges neighbouring frames has one for each merged frame)"
            )
        return given

    def _masked(self, frames: int, m: int) -> Tensor:
        assert self.mask is not None
        if self.mask.stay.shape != (frames, m):
            raise ImpossibleBudgets(
                f"mask is of shape {list(self.mask.stay.shape)}, and this video has {frames} frames of {m} tokens"
            )
        return self.mask.stay.sum(dim=1)

    def _check(self, budgets: Sequence[int | None], stay: Sequence[int], m: int) -> None:
        """Refuse budgets that contradict the frames, the mask or `least`."""
        if self.least > m:
            raise ImpossibleBudgets(f"min_per_frame={self.least}, and a frame of this video has {m} tokens: lower it")
        for t, (tokens, masked) in enumerate(zip(budgets, stay, strict=True)):
            if tokens is None:
                continue
            if tokens > m:
                raise ImpossibleBudgets(f"budgets asks {tokens} tokens of frame {t}, which has {m}: ask {m} at most")
            if tokens < masked:
                raise ImpossibleBudgets(f"budgets gives frame {t} {tokens} tokens, and mask keeps {masked}: raise it")
            if self.least > 1 and tokens < self.least:
                raise ImpossibleBudgets(
                    f"budgets gives frame {t} {tokens} tokens, and min_per_frame={self.least}: change one of them"
                )

    def _too_much(self, budgets: Sequence[int | None], stay: Sequence[int], need: int, wanted: int, m: int) -> str:
        named = [k for k in budgets if k is not None]
        least = [max(self.least, n) for k, n in zip(budgets, stay, strict=True) if k is None]
        parts = [f"{sum(named)} in {len(named)} frames with budgets of their own"] * bool(named)
        others = "others" if named else "frames"
        parts += [f"{sum(least)} in {len(least)} {others}, which keep at least {self.least} each"] * bool(least)
        whole = len(budgets) * m
        enough = math.ceil(need / whole * 1e4) / 1e4
        fix = f"raise retention to {enough}" if enough < 1 else "compress nothing (retention=1)"  # which takes no say
        return (
            f"{need} tokens are asked for by hand ({'; '.join(parts)}), and retention={self.retention} keeps {wanted} "
            f"of {whole}: {fix}, or ask for less"
        )


@dataclass(frozen=True)
class Limits:
    """What the frames of one video may keep, on the CPU.

    Attributes:
        least: int64 [T], the fewest tokens of each frame.
        most: int64 [T], the most.
        total: How many tokens the video keeps: round(R·T·M), or less if the caller gave all frames less.
        free: int64 [F], the frames without a budget of the caller.
        left: How many tokens these share.
        by_hand: The tokens that the caller asked of each frame, by a budget or a mask; None where nothing was asked.
    """

    least: Tensor
    most: Tensor
    total: int
    free: Tensor
    left: int
    by_hand: Budgets

    @property
    def retention(self) -> float:
        """Share of their tokens that the free frames keep."""
        return self.left / int(self.most[self.free].sum()) if len(self.free) else 1.0

    def share(self, wishes: Tensor) -> Tensor:
        """Return k_t, int64 [T], from what the free frames wish for, float [F]. The sum is `total`."""
        device = wishes.device
        wanted = wishes.new_zeros(len(self.most)).index_copy_(0, self.free.to(device), wishes)
        rest = self.total - int(self.least.sum())
        return fill(wanted, self.least.to(device), self.most.to(device), int(self.most.max()), rest)
