"""Token budgets: how many tokens a video and each of its frames keep."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Rounding = Literal["ceil", "half_even", "exact"]
ROUNDINGS = get_args(Rounding)

_SLACK = 1e-4
"""A wish so little above a whole number of tokens is that number. Float32 noise in u, divided by tau, reaches about
1e-5 tokens; without the slack, equal frames could get unequal budgets."""


def frame_retention(uniqueness: Tensor, retention: float, tau: float = 0.01) -> Tensor:
    """Return r_t = min(R (1 + sigma_t - 1/T), 1) with sigma = softmax(u / tau) over frames (paper, Algorithm 1).

    Args:
        uniqueness: u_t, float [T].
        retention: R in (0, 1].
        tau: Temperature of the softmax.

    Returns:
        r_t, the share of its tokens that each frame may keep, [T] of the dtype of `uniqueness`.
    """
    weight = torch.exp((uniqueness - uniqueness.max()) / tau)
    sigma = weight / (weight.sum() + 1e-8)
    return (retention * (1 + sigma - 1 / len(uniqueness))).clamp_max(1.0)


def total_budget(retention: float, frames: int, tokens_per_frame: int) -> int:
    """Return how many tokens a video keeps: round(R·T·M), but at least one per frame."""
    return max(frames, round(retention * frames * tokens_per_frame))


def equal_budgets(total: int, frames: int) -> Tensor:
    """Share `total` tokens equally among frames, int64 [frames]. Earlier frames get what is left over."""
    base, rest = divmod(total, frames) if frames else (0, 0)
    return torch.full((frames,), base).index_add_(0, torch.arange(rest), torch.ones(rest, dtype=torch.int64))


def token_budgets(share: Tensor, tokens_per_frame: int, rounding: Rounding, retention: float) -> Tensor:
    """Round the shares r_t of the frames to whole tokens k_t.

    Args:
        share: r_t, float [T].
        tokens_per_frame: M.
        rounding: "ceil" rounds r_t M up, as the paper does. "half_even" rounds half to even, as the released code
            does. "exact" is ours: largest remainder, so that the sum is round(R·T·M) for every video (but never less
            than one token per frame).
        retention: R; only "exact" uses it.

    Returns:
        k_t, int64 [T], each in [1, M], on the device of `share`.
    """
    frames, m = share.shape[0], tokens_per_frame
    wanted = share * m
    if rounding == "exact":
        least = torch.ones(frames, dtype=torch.int64, device=share.device)
        return fill(wanted, least, m * least, m, total_budget(retention, frames, m) - frames)
    rounded = (wanted - _SLACK).ceil() if rounding == "ceil" else wanted.round()
    return rounded.long().clamp(1, m)


def fill(wanted: Tensor, least: Tensor, most: Tensor, m: int, rest: int) -> Tensor:
    """Give each frame its `least`, then `rest` more tokens, each to the frame that is furthest below its wish.

    Token j of a frame, counted from 0, exceeds the wish by j + 1 - wanted. Taking the smallest of these numbers is
    Hamilton's method. It also gives what full frames cannot take to the others. Among equal numbers, the earlier frame
    comes first. Nothing here waits for the device.

    Args:
        wanted: Float [T], how many tokens each frame wishes for.
        least: int64 [T], the fewest tokens of each frame.
        most: int64 [T], the most.
        m: The largest of `most`, or more.
        rest: How many tokens to hand out. The frames have room for them.

    Returns:
        k_t, int64 [T].
    """
    token = torch.arange(m, device=wanted.device)
    excess = token + 1 - wanted[:, None]  # [T, m]
    excess = excess.masked_fill((token < least[:, None]) | (token >= most[:, None]), torch.inf)
    winners = excess.flatten().argsort(stable=True)[:rest] // m
    return least.index_add(0, winners, torch.ones_like(winners))
