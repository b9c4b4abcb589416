"""VisionZip: "VisionZip: Longer is Better but Not Necessary in Vision Language Models",
https://arxiv.org/abs/2412.04467, section 3.2, as adapted to VideoLLMs that hand over no attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vidcom2.compressor import Kept
from vidcom2.features import has_float64, lengths
from vidcom2.pieces.cosines import cosines_within_frames
from vidcom2.pieces.merging import group_means
from vidcom2.ranking import Ranking, top_per_frame
from vidcom2.settings import check_choice
from vidcom2.specs import register

NEIGHBOURS = 5


@register("visionzip")
@dataclass(frozen=True)
class VisionZip(Ranking):
    """In each frame, keep the strongest tokens, and merge the rest into the centres of its densest regions.

    With k_t the budget of the frame:

        dominant    the max(1, int(0.6 k_t)) tokens with the largest |x|
        density     of any other token: its mean cosine to its 5 nearest tokens, dominant ones left out
        contextual  the k_t - dominant densest of the other tokens. Every token that is not dominant belongs to the
                    contextual token with the highest cosine. A contextual token becomes the mean of all that belong
                    to it.

    Before the LLM. The paper ranks by the attention of the vision tower's CLS token (section 3.2). SigLIP-like towers
    have none, so the length |x| stands in for it, as in a later adoption by the authors of VidCom², which `released`
    equals.

    Args:
        form: How R gives k_t. "mended" takes R·M, rounded so that the total is round(R·T·M), or VidCom²'s budgets with
            +fca. "released" takes max(1, int(R·M)).
        dominant: The share of the dominant tokens in k_t.
        merge: False leaves the contextual tokens unmerged.
    """

    form: Literal["mended", "released"] = "mended"
    dominant: float = 0.6
    merge: bool = True

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "CVPR 2025"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.04467"
    merges: ClassVar[bool] = True
    ranks_alone: ClassVar[bool] = False
    reachable: ClassVar[str] = "any; `released`: multiples of 1/M, rounded down"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "form", ("mended", "released"))
        check_choice(self, "merge", (True, False))
        if not 0 < self.dominant <= 1:
            raise ValueError(f"dominant={self.dominant!r} must be in (0, 1]; 0.6 is the default")
        if self.form == "released" and self.fca is not None:
            raise ValueError(
                "visionzip.released gives every frame int(R·M) tokens and cannot take +fca; visionzip+fca can"
            )

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> VisionZip:
        """Build the adoption by the authors of VidCom²: every frame keeps max(1, int(R·M)) tokens."""
        return cls(retention, **{"form": "released", **settings})

    def own_budgets(self, x: Tensor) -> Tensor:
        """Return k_t as `form` says, int64 [T]."""
        if self.form == "mended":
            return super().own_budgets(x)
        frames, m = x.shape[:2]
        return torch.full((frames,), max(1, int(m * self.retention)), device=x.device)

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        if self.retention == 1 or self.form == "mended":
            return super().total(frames, m)
        return int(self.own_budgets(torch.empty(frames, m, 0)).sum())

    def scores(self, x: Tensor) -> Tensor:
        """Return the tokens' lengths |x|, [T, M]."""
        return lengths(x)

    def keep(self, x: Tensor, scores: Tensor, budgets: Tensor, size: int) -> Kept:
        """Return the dominant tokens as they are, and the contextual ones merged."""
        m = x.shape[1]
        cosine = cosines_within_frames(x, scores)  # [T, M, M]
        dominant = _best(scores, _share(budgets, self.dominant))
        near = cosine.masked_fill(dominant[:, None, :], -torch.inf)
        near.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        near = near.topk(min(NEIGHBOURS, m), dim=-1).values  # -inf where there are fewer than five others
        there = near.isfinite()
        density = near.where(there, 0).sum(-1) / there.sum(-1).clamp_min(1)
        contextual = _best(density.masked_fill(dominant, -torch.inf), budgets - dominant.sum(dim=1))

        index = top_per_frame((dominant | contextual).to(scores.dtype), budgets, size)
        if not self.merge:
            return Kept(index, budgets)
        cosine.diagonal(dim1=1, dim2=2).fill_(torch.inf)  # a contextual token belongs to itself
        owner = cosine.masked_fill_(~contextual[:, None, :], -torch.inf).argmax(dim=-1)  # [T, M]
        # Each kept token is a group, and `size` is none: a frame may have no contextual token.
        slot = torch.full_like(owner, size).flatten().scatter_(0, index, torch.arange(size, device=x.device))
        slot = slot.view_as(owner)
        merged = slot.gather(1, owner).masked_fill(~contextual.any(dim=1, keepdim=True), size)
        means, _ = group_means(x.flatten(0, 1), torch.where(dominant, slot, merged).flatten(), size)
        return Kept(index, budgets, means.to(x.dtype))


def _share(budgets: Tensor, share: float) -> Tensor:
    """max(1, int(share · b)) for each b of the budgets [T], int64 [T]."""
    if not has_float64(budgets.device):
        return torch.tensor([max(1, int(share * b)) for b in budgets.tolist()], device=budgets.device)
    return (budgets.double() * share).long().clamp_min(1)


def _best(scores: Tensor, counts: Tensor) -> Tensor:
    """bool [T, M]: the counts[t] highest of scores [T, M] in each frame; of equal scores the earlier."""
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < counts[:, None]
