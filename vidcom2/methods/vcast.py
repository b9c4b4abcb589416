"""V-CAST: "V-CAST: Video Curvature-Aware Spatio-Temporal Pruning for Efficient Video Large Language Models",
https://arxiv.org/abs/2603.27650.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vidcom2.budget import fill, total_budget
from vidcom2.kernels import kernels_for
from vidcom2.ranking import Ranking
from vidcom2.settings import check_choice
from vidcom2.specs import register

GUARD = 1e-6
"""Lengths are divided by at least this, and so is the spread of a frame's lengths. It is the authors' code's."""


@register("vcast")
@dataclass(frozen=True)
class VCast(Ranking):
    """Keep more tokens of frames where the video turns, and of each frame the longest and the least like its mean.

    With g_t the mean of frame t, divided by its length, and B = round(R·T·M), but at least T:

        kappa_t = 1 - cos(g_t - g_t-1, g_t+1 - g_t)    the curvature; 1 for the first and the last frame
        sigma   = softmax over frames of kappa_t / tau
        k_t     = 1 + sigma_t (B - T), at most M
        score   = 1 - cos(x, g_t) + (|x| - min |x|) / (max |x| - min |x|), with min and max over the frame

    Before the LLM. The curvature, and that the score is the sum of diversity and activation, are in the paper's figure
    of the method. The numbers are those of the authors' code: tau, the curvature of the ends, at least one token per
    frame, and the scaling of |x|.

    Two frames, or a video that stands still, have equal curvatures and so equal budgets. Steady motion has kappa of
    about 0, and independent noise around a still picture about 3/2: jitter keeps more than a pan.

    Args:
        form: How k_t is rounded. "mended" gives each token that is left over to the frame furthest below its k_t. For
            "released", see the classmethod `released`. Both keep B tokens.
        tau: Temperature of the softmax over frames. Since kappa is in [0, 2], no frame has more than e^(2 / tau) times
            the share of another, 17 times for 0.7.
    """

    form: Literal["mended", "released"] = "mended"
    tau: float = 0.7

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "arXiv 2026"
    paper: ClassVar[str] = "https://arxiv.org/abs/2603.27650"
    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = True
    reachable: ClassVar[str] = "any; `released` keeps a video of one frame whole"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "form", ("mended", "released"))
        if self.tau <= 0:
            raise ValueError(f"tau={self.tau!r} must be positive; the authors' code uses 0.7")
        if self.form == "released" and self.fca is not None:
            raise ValueError("vcast.released has budgets by curvature and cannot take +fca; vcast+fca can")
        if self.fca is not None and self.tau != VCast.tau:
            raise ValueError(f"tau={self.tau!r} changes nothing: +fca replaces the budgets that it shapes")

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> VCast:
        """Build what the authors' code does, with its quirks.

        - All k_t are rounded down, and all tokens that are left over go to one frame, the one that lost the largest
          fraction, until it is full. Then the next one gets them.
        - A video of one frame is kept whole.

        The code has R = 0.25 fixed. It computes in the dtype of the features; this computes in float32 at least.
        """
        return cls(retention, **{"form": "released", **settings})

    def scores(self, x: Tensor) -> Tensor:
        """Return the sum of diversity and activation, [T, M]."""
        return _scores(x, kernels_for(x).frame_means(x))

    def own_budgets(self, x: Tensor) -> Tensor:
        """Return k_t by curvature, int64 [T]."""
        if self.fca is not None:
            return super().own_budgets(x)
        return self._by_curvature(kernels_for(x).frame_means(x), x.shape[1])

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        if self.form == "released" and frames == 1:
            return m
        return super().total(frames, m)

    def rank(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, budgets, and whether x is finite, all from one measurement where the budgets are V-CAST's."""
        if self.fca is not None or self.said:
            return super().rank(x)
        means = kernels_for(x).frame_means(x)
        scores = _scores(x, means)
        return scores, self._by_curvature(means, x.shape[1]), scores.sum().isfinite()

    def _by_curvature(self, means: Tensor, m: int) -> Tensor:
        """k_t, int64 [T], from the mean tokens [T, 1, D] of the frames."""
        frames = len(means)
        share = torch.softmax(curvature(means[:, 0]) / self.tau, dim=0)
        least = torch.ones(frames, dtype=torch.int64, device=means.device)
        rest = total_budget(self.retention, frames, m) - frames
        if self.form == "mended":
            return fill(1 + share * rest, least, m * least, m, rest)
        if frames == 1:
            return m * least
        wanted = share * rest
        floor = wanted.floor()
        budgets = least + floor.long().clamp_max(m - 1)
        order = (wanted - floor).argsort(descending=True, stable=True)
        room = m - budgets[order]
        left = frames + rest - budgets.sum() - (room.cumsum(0) - room)  # for each frame, what those before it leave
        return budgets.index_add(0, order, left.clamp_min(0).minimum(room))


def curvature(means: Tensor) -> Tensor:
    """Return kappa_t [T], in [0, 2], of the mean tokens [T, D] of a video's frames.

    A step shorter than GUARD, between unit vectors, is rounding rather than a direction. The curvature beside it goes
    to 1, which is also that of the ends.
    """
    unit = means / means.norm(dim=-1, keepdim=True).clamp_min(GUARD)
    step = unit.diff(dim=0)
    step = step / step.norm(dim=-1, keepdim=True).clamp_min(GUARD)
    kappa = means.new_ones(len(means))
    kappa[1:-1] -= (step[1:] * step[:-1]).sum(dim=-1)
    return kappa


def _scores(x: Tensor, means: Tensor) -> Tensor:
    """The scores [T, M], from the mean tokens [T, 1, D] of the frames."""
    length, dots = kernels_for(x).lengths_and_dots(x, means)  # [T, M, 1] each
    cosine = dots / length.clamp_min(GUARD) / means.norm(dim=-1, keepdim=True).clamp_min(GUARD)
    least, most = length.amin(dim=1, keepdim=True), length.amax(dim=1, keepdim=True)
    return ((length - least) / (most - least + GUARD) - cosine + 1).squeeze(-1)
