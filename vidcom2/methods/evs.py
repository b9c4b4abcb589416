"""EVS: "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference",
https://arxiv.org/abs/2510.14624, in the space of embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from vidcom2.budget import total_budget
from vidcom2.features import all_finite
from vidcom2.kernels.in_slices import SLICE
from vidcom2.pieces.cosines import pair_cosines
from vidcom2.ranking import Ranking
from vidcom2.settings import check_choice
from vidcom2.specs import register
from vidcom2.uniqueness import cosine

STILL = 1e-6
"""A smaller change is rounding, and counts as none. Of unchanged tokens, the earliest stay."""


@register("evs")
@dataclass(frozen=True)
class Evs(Ranking):
    """Keep the first frame whole, and of all others together the tokens that changed most since the frame before.

        change = 1 - cos(x_t,m, x_t-1,m)

    With B = round(R·T·M), but at least T: the first frame has k_0 = min(M, B - T + 1) tokens. The B - k_0 tokens with
    the largest change in the whole video stay as well. A frame in which little changes may keep none.

    So the first frame is whole from about R = 1/T up. Below, the other frames together keep T - 1 tokens, and the first
    frame gives way. It then keeps the tokens least like its mean. With +fca, VidCom²'s budgets replace these, and each
    frame keeps its own largest changes.

    Before the LLM. The paper keeps the first frame and, of all others, the changes from the q-th percentile on. Solved
    for R, that is the same choice, so there is no setting for q. Its other variant, the difference of pixels, cannot be
    had here, where only features are known.

    Args:
        form: "mended", or "released"; see the classmethod `released`.
    """

    form: Literal["mended", "released"] = "mended"

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "arXiv 2025"
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.14624"
    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = True
    reachable: ClassVar[str] = "any; `released`: from 1/T up, rounded down"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "form", ("mended", "released"))
        if self.form == "released" and self.fca is not None:
            raise ValueError("evs.released keeps the first frame whole, so it cannot take +fca; evs+fca can")

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> Evs:
        """Build what vLLM serves as --video-pruning-method evs --video-pruning-rate q, for q = 1 - R.

        - The first frame is always whole. For R up to 1/T, it is all that stays of the video.
        - max(M, int(T·M·(1 - q))) tokens stay, rounded down in floating point: of 1000 tokens, q = 0.9 keeps 99.
        - Changes are computed in the dtype of the features. In bfloat16, they are multiples of 1/256 where a token
          stays nearly the same. Of equal changes, the earlier token stays.
        """
        return cls(retention, **{"form": "released", **settings})

    def scores(self, x: Tensor) -> Tensor:
        """Return how much each token changed, [T, M]; in the first frame, how unlike its mean each token is."""
        if self.form == "released":
            return torch.cat([x.new_ones(1, x.shape[1]), changes_as_they_are(x)])
        return torch.cat([1 - cosine(x[:1]).frame, changes(x)])

    def own_budgets(self, x: Tensor) -> Tensor:
        """Return k_t as the changes of the whole video give them, int64 [T]."""
        return super().own_budgets(x) if self.fca is not None else self._by_change(self.scores(x))

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        released = self.form == "released" and self.retention < 1
        return self._released_total(frames, m) if released else super().total(frames, m)

    def rank(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, budgets, and whether x is finite, from one measurement where the budgets are EVS's."""
        scores = self.scores(x)
        budgets = self.frame_budgets(x) if self.fca is not None or self.said else self._by_change(scores)
        finite = all_finite(x) if self.form == "released" else scores.sum().isfinite()
        return scores, budgets, finite

    def _released_total(self, frames: int, m: int) -> int:
        pruned = 1 - self.retention
        return max(m, int(frames * m * (1 - pruned)))

    def _by_change(self, scores: Tensor) -> Tensor:
        """k_t, int64 [T], from the scores [T, M]."""
        frames, m = scores.shape
        if self.form == "released":
            total, first = self._released_total(frames, m), m
        else:
            total = total_budget(self.retention, frames, m)
            first = min(m, total - frames + 1)
        changed = scores[1:].flatten().argsort(descending=True, stable=True)[: total - first] // m
        budgets = torch.zeros(frames, dtype=torch.int64, device=scores.device)
        budgets[0] = first
        return budgets.index_add_(0, changed + 1, torch.ones_like(changed))


def changes(x: Tensor) -> Tensor:
    """Return 1 - cos(x_t,m, x_t-1,m), in float32 at least, of features x [T, M, D]: [T - 1, M].

    A zero token has cosine 0 to any other.
    """
    before = torch.arange(-1, len(x) - 1, device=x.device).clamp_min(0)
    change = 1 - pair_cosines(x.detach(), before)[0][1:]
    return change * (change > STILL)


def changes_as_they_are(x: Tensor) -> Tensor:
    """Return `changes` in the dtype of x, to the last bit of torch's cosine_similarity of all frames at once."""
    frames, m, channels = x.shape
    # It makes several copies of what it gets. On a CPU, an eighth of a slice and its copies stay in the cache.
    elements = SLICE // 8 * torch.get_num_threads() if x.device.type == "cpu" else x.numel() // 16
    count, tokens = max(1, elements // channels), x.flatten(0, 1)
    pairs = zip(tokens[m:].split(count), tokens[:-m].split(count), strict=True)
    return 1 - torch.cat([cosine_similarity(token, before, dim=-1) for token, before in pairs]).view(frames - 1, m)
