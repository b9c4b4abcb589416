"""Stage 1 of VidCom², Frame Compression Adjustment: how many tokens each frame may keep.

`VidCom2` uses it, and so does every method that is written `name+fca`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from vidcom2.budget import ROUNDINGS, Rounding, frame_retention, token_budgets
from vidcom2.by_hand import Limits
from vidcom2.settings import check_choice, check_numbers, plain_numbers
from vidcom2.uniqueness import Similarity, cosine, gaussian


@dataclass(frozen=True)
class FrameAdjustment:
    """Frame Compression Adjustment (https://arxiv.org/abs/2505.14454, Algorithm 1): unique frames keep more.

        u_video = -cos(x, g_v)      u_t = mean_m u_video      sigma = softmax over frames of u_t / tau
        r_t = R (1 + sigma_t - 1/T), at most 1                k_t = r_t M, rounded

    with g_v the mean of all tokens x of the video.

    Args:
        tau: Temperature of the softmax. A lower one favours the most unique frame more.
        score: u_t is the "mean" or the "max" of the frame's u_video. "uniform" gives all frames equal shares
            (table 6).
        rounding: See `token_budgets`. With "exact", the default here, a method keeps as many tokens as without
            adjustment.
        window: Take g_v over windows of that many frames; None takes it over the whole video (table 7).
        similarity: "cosine", as in the paper, or "gaussian", as in the authors' code; see `uniqueness.gaussian`.
        channels: The share of the channels that "gaussian" uses. "cosine" takes no other than 0.5 and uses all.

    Raises:
        ValueError: A setting is out of range, or has no effect beside the others.
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
        if self.similarity == "cosine" and self.channels != FrameAdjustment.channels:
            raise ValueError(
                f"channels={self.channels!r} changes nothing: cosine uses all; similarity=gaussian takes it"
            )
        if self.score == "uniform" and self.tau != FrameAdjustment.tau:
            raise ValueError(f"tau={self.tau!r} changes nothing: the frames' shares are equal, so leave it out")

    @staticmethod
    def check(fca: Any, name: str) -> None:
        """Check the setting `fca` of the method `name`.

        Raises:
            ValueError: It is neither a FrameAdjustment nor None.
        """
        if fca is not None and not isinstance(fca, FrameAdjustment):
            raise ValueError(f"fca={fca!r} must be a FrameAdjustment or None; in a spec, write {name}+fca")

    def budgets(self, x: Tensor, retention: float, limits: Limits | None = None) -> Tensor:
        """Return the tokens that each frame may keep.

        This does not wait for the device, so it cannot refuse NaN. The caller has to check the features.

        Args:
            x: Features [T, M, D].
            retention: R in (0, 1].
            limits: What a caller asks for by hand; None for nothing. The frames without a budget of the caller share
                what is left, as if they were the whole video, and the sum is exact whatever `rounding` says.

        Returns:
            int64 [T], each in [1, M] (a caller may give a frame 0), on the device of x.
        """
        return self.budgets_from(self.measure(x), retention, limits)

    def measure(self, x: Tensor) -> Similarity:
        """Return how similar each token of x [T, M, D] is to the mean of its video and to that of its frame."""
        if self.similarity == "gaussian":
            return gaussian(x, self.window, self.channels)
        return cosine(x, self.window)

    def budgets_from(self, similarity: Similarity, retention: float, limits: Limits | None = None) -> Tensor:
        """Return `budgets`, int64 [T], from what `measure` found."""
        uniqueness, m = self.uniqueness(similarity), similarity.video.shape[1]
        if limits is None:
            return token_budgets(self.shares(uniqueness, retention), m, self.rounding, retention)
        free = uniqueness[limits.free.to(uniqueness.device)]
        return limits.share(m * self.shares(free, limits.retention) if len(free) else free)

    def uniqueness(self, similarity: Similarity) -> Tensor:
        """Return u_t [T], the uniqueness of each frame."""
        u_video = -similarity.video
        if self.score == "mean":
            return u_video.mean(dim=1)
        if self.score == "max":
            return u_video.amax(dim=1)
        return u_video.new_zeros(len(u_video))

    def shares(self, uniqueness: Tensor, retention: float) -> Tensor:
        """Return r_t [T], the share of its tokens that each frame may keep, from u_t [T]."""
        return frame_retention(uniqueness, retention, self.tau)
