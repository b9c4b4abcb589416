"""Stage 1 of VidCom² by itself: how many tokens each frame may keep. VidCom² uses it, and so does `name+fca`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vidcom2.budget import ROUNDINGS, Rounding, frame_retention, token_budgets
from vidcom2.settings import check_choice, check_numbers, plain_numbers
from vidcom2.uniqueness import Similarity, cosine, gaussian


@dataclass(frozen=True)
class FrameAdjustment:
    """Frame Compression Adjustment (https://arxiv.org/abs/2505.14454, Algorithm 1): unique frames keep more.

        u_video = -cos(x, g_v)      u_t = mean_m u_video      sigma = softmax over frames of u_t / tau
        r_t = R (1 + sigma_t - 1/T), at most 1                k_t = r_t M, rounded

    score: u_t is the "mean" or "max" of the frame's u_video; "uniform" gives frames equal shares (table 6).
    rounding: see `token_budgets`. "exact", the default here, makes any method keep as much as without adjustment.
    window, similarity, channels: as in `VidCom2`.

    Raises ValueError for settings out of range.
    """

    tau: float = 0.01
    score: Literal["mean", "max", "uniform"] = "mean"
    rounding: Rounding = "exact"
    window: int | None = None
    similarity: Literal["cosine", "gaussian"] = "cosine"
    channels: float = 0.5

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_numbers(self)
        check_choice(self, "score", ("mean", "max", "uniform"))
        check_choice(self, "rounding", ROUNDINGS)
        check_choice(self, "similarity", ("cosine", "gaussian"))
        if self.tau <= 0:
            raise ValueError(f"tau={self.tau!r} must be positive; the paper uses 0.01")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window!r} must be at least one frame, or None for the whole video")
        if not 0 < self.channels <= 1:
            raise ValueError(f"channels={self.channels!r} must be in (0, 1]; the released code uses 0.5")

    def budgets(self, x: Tensor, retention: float) -> Tensor:
        """Tokens each frame may keep, int64 [T] in [1, M], for x [T, M, D]. Stays on the device of x.

        Does not wait for the device, so it cannot refuse NaN: whoever calls it has to look at the features.
        """
        return self.rounded(self.shares(self.uniqueness(-self.measure(x).video), retention), x.shape[1], retention)

    def measure(self, x: Tensor) -> Similarity:
        """Similarity of each token of x [T, M, D] to its video's and to its frame's mean."""
        if self.similarity == "gaussian":
            return gaussian(x, self.window, self.channels)
        return cosine(x, self.window)

    def uniqueness(self, u_video: Tensor) -> Tensor:
        """u_t [T], from u_video [T, M]."""
        if self.score == "mean":
            return u_video.mean(dim=1)
        if self.score == "max":
            return u_video.amax(dim=1)
        return u_video.new_zeros(len(u_video))

    def shares(self, uniqueness: Tensor, retention: float) -> Tensor:
        """r_t [T], from u_t [T]."""
        return frame_retention(uniqueness, retention, self.tau)

    def rounded(self, shares: Tensor, tokens_per_frame: int, retention: float) -> Tensor:
        """k_t int64 [T], from r_t [T]."""
        return token_budgets(shares, tokens_per_frame, self.rounding, retention)
