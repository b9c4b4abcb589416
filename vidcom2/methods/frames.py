"""Whole frames, dropped by VidCom²'s frame uniqueness: the experiment of https://arxiv.org/abs/2505.14454, figure 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from vidcom2.compressor import Compressor, Kept
from vidcom2.features import all_finite, require_finite
from vidcom2.settings import check_choice
from vidcom2.specs import register
from vidcom2.uniqueness import cosine

Drop = Literal["redundant", "unique", "even"]
DROPS = get_args(Drop)


@register("frames")
@dataclass(frozen=True)
class Frames(Compressor):
    """Keep all tokens of k = max(1, round(R·T)) of the T frames, and none of the others.

        u_t = mean_m -cos(x_t,m, g_v)    with g_v the mean of all tokens, as in `VidCom2`

    Before the LLM. If a model merges neighbouring frames of a video, T counts the merged frames.

    Args:
        drop: "redundant" drops the frames with the lowest u_t, "unique" those with the highest; of equal ones, the
            earlier stay. "even" does not look at the frames: frames floor((j + 1/2) T / k) stay, as if the video had
            been sampled at fewer frames.
        newlines: As in `Compressor`. The default here, "rows", drops the row newlines of a dropped frame.
    """

    drop: Drop = "redundant"
    newlines: Literal["released", "rows"] = field(default="rows", kw_only=True)

    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = True
    reachable: ClassVar[str] = "multiples of 1/T, whole frames"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "drop", DROPS)

    def total(self, frames: int, m: int) -> int:
        """Return k·M, the same for every video of T=frames and M=m; see `Compressor.total`."""
        return self.count(frames) * m

    def count(self, frames: int) -> int:
        """Return k, how many of T=frames stay."""
        return max(1, round(self.retention * frames))

    def _select(self, x: Tensor) -> Kept:
        require_finite(bool(all_finite(x)), x)
        frames, m = x.shape[:2]
        count = self.count(frames)
        if self.drop == "even":
            kept = (2 * torch.arange(count, device=x.device) + 1) * frames // (2 * count)
        else:
            similarity = cosine(x).video.mean(dim=1)
            order = similarity.argsort(descending=self.drop == "unique", stable=True)
            kept = order[:count].sort().values
        index = kept[:, None] * m + torch.arange(m, device=x.device)
        return Kept(index.flatten(), torch.zeros(frames, dtype=torch.int64, device=x.device).index_fill_(0, kept, m))
