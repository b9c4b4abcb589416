"""DyCoke, stage 1 (temporal token merging): "DyCoke: Dynamic Compression of Tokens for Fast Video Large Language
Models", https://arxiv.org/abs/2411.15024, section 3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vidcom2.budget import equal_budgets, total_budget
from vidcom2.kernels import kernels_for
from vidcom2.pieces.cosines import cosines_with, pair_cosines
from vidcom2.ranking import Ranking
from vidcom2.settings import check_choice
from vidcom2.specs import register

WINDOW = 4
"""Frames of a window."""
STEPS = (4, 1, 2, 1)
"""How many frames back the frame lies that a frame is compared with, by its place in the window."""


@register("dycoke")
@dataclass(frozen=True)
class DyCoke(Ranking):
    """In windows of four frames, keep the first frame whole, and of the others the tokens that changed most.

        score = -cos(x_t,m, x_r,m)    with r = t - 1 for the second and fourth frame of a window, t - 2 for the third

    Before the LLM. "Merging" in the paper's name for it means dropping: nothing is averaged. Stage 2 of the paper,
    which prunes the KV cache while decoding, is not part of this.

    The form "mended" reaches every R. The first frames stay whole, and the three compared frames of each window share
    what is left of round(R·T·M). If that is less than one token per frame (R below about 1/4), compared frames keep
    one token each, and the first frames are thinned as well: to the tokens least like the first frame of the window
    before, or, in the very first frame, least like its own mean. With +fca, VidCom²'s budgets replace these.

    Args:
        form: "mended" or "released"; see the classmethod `released`.
        merging: For "released" only: the share of the tokens that a compared frame drops.
    """

    form: Literal["mended", "released"] = "mended"
    merging: float | None = None

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "CVPR 2025"
    paper: ClassVar[str] = "https://arxiv.org/abs/2411.15024"
    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = False
    reachable: ClassVar[str] = "any; `released`: from about 1/4 up (9/32 at 32 frames)"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "form", ("mended", "released"))
        if self.form == "released" and self.fca is not None:
            raise ValueError("dycoke.released keeps frames whole, so it cannot take +fca; dycoke+fca can")
        if self.merging is not None and (self.form != "released" or not 0 <= self.merging <= 1):
            raise ValueError(
                f"merging={self.merging!r} must be in [0, 1] and needs dycoke.released; dycoke solves for R"
            )

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> DyCoke:
        """Build what the authors' code does, with its quirks.

        - Frames 1, 3, 5, ... keep the n tokens least like the frame before. Frame i + 2 of a window that begins at i
          keeps the n tokens least like frame i, but only while i < T - 4: in the last window it stays whole.
        - If the number of frames is odd, the last frame is dropped, unless it is the only one.
        - n = int((1 - merging) M), truncated in floating point. merging=None solves for n, so that the kept tokens are
          as near to R·T·M as a whole n allows. The authors' scripts set merging to 0.7. A later adoption sets it to
          1 - R, which keeps far more than R. With merging given, R has no effect, but R = 1 keeps everything.

        With q = floor(T/2) and w = max(0, ceil((T-4)/4)), (q-w) M + (q+w) n tokens stay. `select` raises ValueError
        for an R that this cannot reach.
        """
        return cls(retention, **{"form": "released", **settings})

    def scores(self, x: Tensor) -> Tensor:
        """Return how much each token differs from the token at its place in frame r, [T, M]."""
        t = torch.arange(len(x), device=x.device)
        other = (t - torch.tensor(STEPS, device=x.device)[t % WINDOW]).clamp_min(0)
        cosine, _ = pair_cosines(x, other)
        cosine[:1] = cosines_with(x[:1], kernels_for(x).frame_means(x[:1]))
        return -cosine

    def own_budgets(self, x: Tensor) -> Tensor:
        """Return k_t as `form` says, int64 [T]."""
        if self.fca is not None:
            return super().own_budgets(x)
        frames, m = x.shape[:2]
        budgets = torch.zeros(frames, dtype=torch.int64)
        place = torch.arange(frames)
        if self.form == "released":
            compared = (place % 2 == 1) | ((place % WINDOW == 2) & (place < frames - 2))
            whole = ~compared
            if frames > 1 and frames % 2 == 1:
                whole[-1] = False
            budgets[whole] = m
            budgets[compared] = self._released_n(frames, m, int(whole.sum()), int(compared.sum()))
        else:
            first = place % WINDOW == 0
            total, firsts, others = total_budget(self.retention, frames, m), int(first.sum()), int((~first).sum())
            for_others = max(others, total - firsts * m)
            budgets[first] = equal_budgets(total - for_others, firsts)
            budgets[~first] = equal_budgets(for_others, others)
        return budgets.to(x.device)

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        if self.retention == 1 or self.form == "mended":
            return super().total(frames, m)
        return int(self.own_budgets(torch.empty(frames, m, 0)).sum())

    def _released_n(self, frames: int, m: int, whole: int, compared: int) -> int:
        if self.merging is not None:
            return int((1 - self.merging) * m)
        n = (self.retention * frames - whole) * m / compared if compared else math.inf
        if not -1e-6 <= n <= m + 1e-6:
            raise ValueError(
                f"dycoke.released cannot reach retention={self.retention!r} on {frames} frames: it keeps from "
                f"{whole / frames:.4g} to {(whole + compared) / frames:.4g}, since {whole} frames stay whole; "
                "dycoke (without .released) reaches any"
            )
        return round(n)
