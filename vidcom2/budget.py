"""Frame Compression Adjustment: from frame uniqueness to how many tokens each frame may keep."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Rounding = Literal["ceil", "half_even", "exact"]
ROUNDINGS = get_args(Rounding)

# A share this little above an integer (in tokens) is that integer. Float32 noise in u, divided by tau, reaches
# about 1e-5 tokens; without the slack, equal frames could get unequal budgets.
_SLACK = 1e-4


def frame_retention(uniqueness: Tensor, retention: float, tau: float = 0.01) -> Tensor:
    """r_t = min(R (1 + sigma_t - 1/T), 1) with sigma = softmax(u / tau) over frames (paper, Algorithm 1).

    uniqueness: [T] float. Returns [T] of the same dtype.
    """
    weight = torch.exp((uniqueness - uniqueness.max()) / tau)
    sigma = weight / (weight.sum() + 1e-8)
    return (retention * (1 + sigma - 1 / len(uniqueness))).clamp_max(1.0)


def total_budget(retention: float, frames: int, tokens_per_frame: int) -> int:
    """The tokens that a video keeps at retention R: round(R·T·M), but no less than one per frame."""
    return max(frames, round(retention * frames * tokens_per_frame))


def equal_budgets(total: int, frames: int) -> Tensor:
    """int64 [frames] that sums to `total`, as equal as can be; earlier frames get what is left over."""
    base, rest = divmod(total, frames) if frames else (0, 0)
    return torch.full((frames,), base).index_add_(0, torch.arange(rest), torch.ones(rest, dtype=torch.int64))


def token_budgets(share: Tensor, tokens_per_frame: int, rounding: Rounding, retention: float) -> Tensor:
    """Integer tokens per frame k_t in [1, M], int64 [T], from the frames' retention `share` [T].

    ceil: the paper. half_even: the released code. exact: ours, largest remainder, so that the sum is
    round(R·T·M) whatever the frames look like (but never less than one token for each frame).
    """
    frames, m = share.shape[0], tokens_per_frame
    wanted = share * m
    if rounding == "exact":
        return _largest_remainder(wanted, m, total_budget(retention, frames, m))
    rounded = (wanted - _SLACK).ceil() if rounding == "ceil" else wanted.round()
    return rounded.long().clamp(1, m)


def _largest_remainder(wanted: Tensor, m: int, total: int) -> Tensor:
    """Hand out `total` tokens: one to each frame, then always to the frame furthest below its wish.

    Token j of a frame (counted from 0) overdraws the wish by j + 1 - wanted. Taking the total - T smallest
    overdrafts is Hamilton's method, and it shares what full frames cannot take among the others. Equal
    overdrafts go to the earlier frame.
    """
    frames = wanted.shape[0]
    overdraft = torch.arange(2, m + 1, device=wanted.device) - wanted[:, None]  # [T, M - 1]
    winners = overdraft.flatten().argsort(stable=True)[: total - frames] // max(1, m - 1)
    return torch.ones(frames, dtype=torch.int64, device=wanted.device).index_add_(0, winners, torch.ones_like(winners))
