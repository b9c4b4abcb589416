"""VidCom²: "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models",
https://arxiv.org/abs/2505.14454, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vidcom2.budget import Rounding
from vidcom2.compressor import Compressor, Kept
from vidcom2.features import check_features, full_precision, require_finite
from vidcom2.frame_adjustment import FrameAdjustment
from vidcom2.ranking import top_per_frame
from vidcom2.settings import check_choice
from vidcom2.specs import register
from vidcom2.uniqueness import Similarity


@dataclass(frozen=True)
class Explanation:
    """Why VidCom² keeps what it keeps: uniqueness u = -similarity and the retention that follows from it."""

    video: Tensor
    """[T, M] u_video: dissimilarity of each token to its video's mean token"""
    frame: Tensor
    """[T, M] u_frame: dissimilarity of each token to its frame's mean token"""
    frame_uniqueness: Tensor
    """[T] u_t, what the frames' softmax is taken over"""
    retention: Tensor
    """[T] r_t, each frame's share of its tokens, before rounding"""


@register("vidcom2")
@dataclass(frozen=True)
class VidCom2(Compressor):
    """Keep the tokens least similar to their frame's and their video's mean, more of them in unique frames.

    With g_v the mean of all tokens x and g_f,t the mean of frame t's:
        u_video = -cos(x, g_v)      u_frame = -cos(x, g_f,t)
        u_t     = mean_m u_video    sigma   = softmax over frames of u_t / tau
        r_t     = R (1 + sigma_t - 1/T), at most 1        k_t = ceil(r_t M), at least 1
    and frame t keeps the k_t tokens with the largest u_frame + u_video, in their original order.

    The defaults are the paper's. Its ablations are settings:
    sign: -1 ranks by dissimilarity, +1 keeps the most similar tokens instead (table 5; budgets do not change).
    frame_score: u_t is the "mean" or "max" of the frame's u_video; "uniform" gives frames equal shares (table 6).
    window: g_v is the mean over windows of that many frames; None, the whole video (table 7).
    frame_weight, video_weight: weights of u_frame and u_video in the ranking (table 8).

    similarity, channels, rounding: see `released`, which sets them as the authors' code does.
    rounding="exact" makes the budgets add up to round(R·T·M).
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
        _ = self.stage1  # checks the settings it is made of

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> VidCom2:
        """The operator of the authors' repository, which is not the paper's formula.

        A Gaussian kernel on normalised tokens, over the half of the channels with the lowest variance, and
        budgets rounded half to even.
        """
        return cls(retention, **{"similarity": "gaussian", "channels": 0.5, "rounding": "half_even", **settings})

    @property
    def stage1(self) -> FrameAdjustment:
        """What gives the frames their budgets."""
        return FrameAdjustment(self.tau, self.frame_score, self.rounding, self.window, self.similarity, self.channels)

    def explain(self, x: Tensor) -> Explanation:
        """The uniqueness and retention behind `select`, for x [T, M, D]; raises like `select`."""
        check_features(x)
        with full_precision(x.device):
            scores = self.stage1.measure(x)
            require_finite(bool(scores.checksum.isfinite()), x)
            return self._explain(scores)

    def _select(self, x: Tensor) -> Kept:
        scores = self.stage1.measure(x)
        why = self._explain(scores)
        budgets = self.stage1.rounded(why.retention, x.shape[1], self.retention)
        # The only host synchronisation: the size of the output, and whether the features were sound.
        size, finite = torch.stack([budgets.sum(), scores.checksum.isfinite().long()]).tolist()
        require_finite(bool(finite), x)
        frame_weight, video_weight = -self.sign * self.frame_weight, -self.sign * self.video_weight
        ranking = torch.add(frame_weight * why.frame, why.video, alpha=video_weight)
        return Kept(top_per_frame(ranking, budgets, size), budgets)

    def _explain(self, scores: Similarity) -> Explanation:
        u_video = -scores.video
        u_t = self.stage1.uniqueness(u_video)
        return Explanation(u_video, -scores.frame, u_t, self.stage1.shares(u_t, self.retention))
