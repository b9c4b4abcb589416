"""VidCom²: "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models",
https://arxiv.org/abs/2505.14454, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vidcom2.budget import Rounding
from vidcom2.features import check_features, full_precision, require_finite
from vidcom2.frame_adjustment import FrameAdjustment
from vidcom2.ranking import Ranking
from vidcom2.settings import check_choice
from vidcom2.specs import register
from vidcom2.uniqueness import Similarity


@dataclass(frozen=True)
class Explanation:
    """Why VidCom² keeps what it keeps: the uniqueness u = -similarity, and the retention that follows from it.

    All tensors are float32, or float64 for float64 features.

    Attributes:
        video: u_video [T, M], how unlike the mean token of its video each token is.
        frame: u_frame [T, M], how unlike the mean token of its frame each token is.
        frame_uniqueness: u_t [T], which the softmax over the frames takes.
        retention: r_t [T], the share of its tokens that each frame may keep, before rounding.
    """

    video: Tensor
    frame: Tensor
    frame_uniqueness: Tensor
    retention: Tensor


@register("vidcom2")
@dataclass(frozen=True)
class VidCom2(Ranking):
    """Keep the tokens least similar to the means of their frame and their video, and more of them in unique frames.

    With g_v the mean of all tokens x and g_f,t the mean of frame t (Algorithm 1):

        u_video = -cos(x, g_v)      u_frame = -cos(x, g_f,t)
        u_t     = mean_m u_video    sigma   = softmax over frames of u_t / tau
        r_t     = R (1 + sigma_t - 1/T), at most 1        k_t = ceil(r_t M), at least 1

    Frame t keeps the k_t tokens with the largest u_frame + u_video, in their original order. The defaults are the
    paper's; its ablations are settings.

    Args:
        tau: Temperature of the softmax over frames.
        sign: -1 keeps the most dissimilar tokens, +1 the most similar ones (table 5). The budgets are the same.
        frame_score: u_t is the "mean" or the "max" of the frame's u_video. "uniform" gives all frames equal shares
            (table 6).
        window: Take g_v over windows of that many frames; None takes it over the whole video (table 7).
        frame_weight: Weight of u_frame in the ranking (table 8).
        video_weight: Weight of u_video in the ranking (table 8).
        similarity: "cosine", as in the paper, or "gaussian", as in the authors' code (see `released`).
        channels: The share of the channels that "gaussian" uses, those with the lowest variance.
        rounding: How r_t M becomes k_t; see `vidcom2.budget.token_budgets`. "ceil" is the paper's, "half_even" the
            authors' code's. With "exact" the budgets sum to round(R·T·M).

    Attributes:
        fca: The Frame Compression Adjustment that these settings describe. It is derived and cannot be passed.
    """

    tau: float = 0.01
    sign: Literal[-1, 1] = -1
    frame_score: Literal["mean", "max", "uniform"] = "mean"
    window: int | None = None
    frame_weight: float = 1.0
    video_weight: float = 1.0
    similarity: Literal["cosine", "gaussian"] = "cosine"
    channels: float = 0.5
    rounding: Rounding = "ceil"
    fca: FrameAdjustment = field(init=False, repr=False, compare=False)

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "EMNLP 2025"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.14454"
    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = True
    reachable: ClassVar[str] = (
        "any, up to one token per frame above R, and below R where unique frames are full (R above 1/2); "
        "`rounding=exact`: any"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "sign", (-1, 1))
        check_choice(self, "frame_score", ("mean", "max", "uniform"))
        fca = FrameAdjustment(self.tau, self.frame_score, self.rounding, self.window, self.similarity, self.channels)
        object.__setattr__(self, "fca", fca)  # the dataclass is frozen

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> VidCom2:
        """Build the operator of the authors' repository, which differs from the paper's formula.

        It compares normalised tokens by a Gaussian kernel (`vidcom2.uniqueness.gaussian`), over the half of the
        channels with the lowest variance, and rounds budgets half to even.
        """
        return cls(retention, **{"similarity": "gaussian", "channels": 0.5, "rounding": "half_even", **settings})

    def scores(self, x: Tensor) -> Tensor:
        """Return the weighted sum of u_frame and u_video (of the similarities, for sign=+1), [T, M]."""
        return self._scores(self.fca.measure(x))

    def rank(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, budgets, and whether x is finite, all from one measurement."""
        similarity = self.fca.measure(x)
        budgets = self.fca.budgets_from(similarity, self.retention, self.limits(*x.shape[:2]))
        return self._scores(similarity), budgets, similarity.checksum.isfinite()

    def _scores(self, similarity: Similarity) -> Tensor:
        """u_frame and u_video weighted, from similarity = -u; `sign` keeps or turns the order."""
        frame_weight, video_weight = self.sign * self.frame_weight, self.sign * self.video_weight
        return torch.add(frame_weight * similarity.frame, similarity.video, alpha=video_weight)

    def explain(self, x: Tensor) -> Explanation:
        """Return the uniqueness and the retention behind `select`, for features x [T, M, D].

        Raises:
            ValueError: As `select` does.
        """
        check_features(x)
        with full_precision(x.device):
            similarity = self.fca.measure(x)
            require_finite(bool(similarity.checksum.isfinite()), x)
            u_t = self.fca.uniqueness(similarity)
            return Explanation(-similarity.video, -similarity.frame, u_t, self.fca.shares(u_t, self.retention))
