"""GleanVID: "GleanVID: Complementary Token Selection for Efficient Video Large Language Models",
https://arxiv.org/abs/2609.37042, sections 3.2, 3.3 and B.1. From the paper; no code was found.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cosine_similarity, softplus

from vidcom2.budget import fill, total_budget
from vidcom2.compressor import Kept
from vidcom2.features import require_finite
from vidcom2.pieces.sketch import WIDE, sketch
from vidcom2.pieces.subspace import SLICE, Subspace, leading_direction
from vidcom2.ranking import Ranking
from vidcom2.settings import check_at_least_one, check_share
from vidcom2.specs import register

FLAT = 1e-5
"""Scores whose range is a smaller share of the largest are equal: the difference is rounding."""


@register("gleanvid")
@dataclass(frozen=True)
class GleanVid(Ranking):
    """Give new content more tokens, and keep tokens that those kept of earlier frames do not explain.

    With x_ the mean token of the video, and d the first right singular vector of all tokens less x_:

        debiased   y = x - ((x - x_)·d) d                                                                (eq. 3)
        cells      of 2x2 tokens, with the means c of x and z of y
        novelty    R_t = sum over tokens of |z_t less its projection on z_1 .. z_t-1 of the same cell|   (eq. 4)
        budgets    k_t = α B/T + (1-α) B R_t / sum R, by largest remainder                               (eq. 5)
                   α = alpha_max - (alpha_max - alpha_min) g, with g the Gini coefficient of R           (eq. 6, 7)
        local      u = softplus(temperature (cos(x, c) - cos(x, mean of the frame)))                     (eq. 8)
        new        v = |y less its projection on the y that earlier frames keep|                         (eq. 9)
        choice     the k_t tokens of frame t with the largest u + v, each scaled to [0, 1] in the frame  (eq. 10)

    Before the LLM. The defaults are the paper's. What the paper leaves open, and what differs here:

    - B is round(R·T·M), not its floor, and each frame keeps one token at least.
    - A cell at the edge of a grid with an odd side has the tokens that there are.
    - The novelty uses the regularised projection of eq. 11. So does v, with respect to the length of each token; the
      paper drops the directions of a QR decomposition that are shorter than `tolerance` times the longest (eq. 13).
    - Where all scores of a frame are equal but for rounding, they scale to 0.
    - Where nothing is novel (all tokens are zero), the budgets are equal.
    - d is found to the accuracy of `vidcom2.pieces.subspace.leading_direction`.
    - A kept token is compared with all tokens of later frames, so the time grows with T². Two bounds make it linear for
      long videos: `history` differs from the paper beyond 64 frames, `basis` beyond 2048 kept tokens.
    - Where D is above 256, all of the above is computed on sketches of 256 channels (`pieces.sketch`), and v looks at
      128 directions, since more would explain every sketch. Of random features with D = 3584, 92 % of the tokens that
      are kept without sketches are kept with them; of a synthetic video whose tokens recur with much noise, 47 %.

    Args:
        alpha_min: Share of the equal budgets where one frame has all the novelty.
        alpha_max: Their share where all frames are equally novel.
        temperature: τ of eq. 8.
        tolerance: ε of eq. 11.
        history: How many frames back the novelty looks.
        basis: How many directions of kept tokens v looks at, the newest ones.
    """

    alpha_min: float = 0.2
    alpha_max: float = 0.6
    temperature: float = 4.0
    tolerance: float = 1e-4
    history: int = 64
    basis: int = 2048

    venue: ClassVar[str] = "arXiv 2026"
    paper: ClassVar[str] = "https://arxiv.org/abs/2609.37042"
    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = True
    uses_grid: ClassVar[bool] = True
    ranks_alone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "alpha_min", "alpha_max")
        check_at_least_one(self, "history", "basis")
        for name in ("temperature", "tolerance"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be positive")

    def _select_grid(self, x: Tensor, rows: int, columns: int) -> Kept:
        frames, m = x.shape[:2]
        short = sketch(x, WIDE)
        cells = Cells.of(short, rows, columns)
        require_finite(bool(cells.centre.isfinite().all()), x)
        direction = leading_direction(short.flatten(0, 1), cells.centre)
        limits = self.limits(frames, m)
        if self.fca is not None:
            budgets = self.fca.budgets(x, self.retention, limits)
        else:
            budgets = self._novelty_budgets(cells, direction)
            if limits is not None:
                own = budgets[limits.free.to(x.device)].float()
                budgets = limits.share(own * limits.left / own.sum().clamp_min(1))
        kept = Kept(self._choose(short, cells, direction, budgets.tolist(), x.shape[2] > WIDE), budgets)
        return kept if limits is None else dataclasses.replace(kept, by_hand=limits.by_hand)

    def _novelty_budgets(self, cells: Cells, direction: Tensor) -> Tensor:
        """k_t of eq. 5, int64 [T]."""
        frames, m = len(cells.means), len(cells.of_token)
        # A quarter of the cells at a time, for less memory.
        parts = cells.means.split(-(-len(cells.sizes) // 4), dim=1)
        novelty = cells.sizes @ torch.cat([self._residuals(_debias(c, cells.centre, direction)) for c in parts])
        whole = novelty.sum()
        share = torch.where(whole > 0, novelty / whole, 1 / frames)
        place = torch.arange(1, frames + 1, device=share.device, dtype=share.dtype)
        gini = 2 / frames * (place @ share.sort().values) - (frames + 1) / frames
        alpha = self.alpha_max - (self.alpha_max - self.alpha_min) * gini
        total = total_budget(self.retention, frames, m)
        one = torch.ones(frames, dtype=torch.int64, device=share.device)
        return fill(total * (alpha / frames + (1 - alpha) * share), one, m * one, m, total - frames)

    def _residuals(self, z: Tensor) -> Tensor:
        """r of eq. 11 for means z [T, cells, D], [cells, T]."""
        z = z.transpose(0, 1)
        frames = z.shape[1]
        found = []
        for start in range(0, frames, self.history):
            first = max(0, start - self.history)
            near = z[:, first : start + self.history]
            gram = near @ near.mT
            for t in range(start, min(start + self.history, frames)):
                own, past = t - first, slice(max(0, t - self.history) - first, t - first)
                square = gram[:, own, own]
                if t:
                    before = gram[:, past, past].clone()
                    level = self.tolerance * before.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)
                    before.diagonal(dim1=1, dim2=2).add_(level.clamp_min(torch.finfo(z.dtype).tiny))
                    factor = torch.linalg.cholesky_ex(before)[0]
                    part = torch.linalg.solve_triangular(factor, gram[:, past, own, None], upper=False)
                    square = square - part.square().sum(dim=(1, 2))
                found.append(square.clamp_min(0).sqrt())
        return torch.stack(found, dim=1)

    def _choose(self, x: Tensor, cells: Cells, direction: Tensor, budgets: list[int], sketched: bool) -> Tensor:
        """The kept positions, int64 [N]: frame after frame, the largest u + v, for tokens or sketches x."""
        m, chosen = x.shape[1], []
        size = min(self.basis, x.shape[2] // 2) if sketched else self.basis
        kept = Subspace(min(size, sum(budgets)), self.tolerance, cells.centre)
        for t, budget in enumerate(budgets):
            if not budget:
                continue
            tokens = x[t].to(cells.centre.dtype)
            local = cosine_similarity(tokens, cells.means[t, cells.of_token], dim=1)
            local = local - cosine_similarity(tokens, cells.frames[t, None], dim=1)
            tokens = _debias(tokens, cells.centre, direction)
            coordinates = kept.coordinates(tokens)
            new = (tokens.square().sum(dim=1) - coordinates.square().sum(dim=1)).clamp_min(0).sqrt()
            score = _scaled(softplus(self.temperature * local)) + _scaled(new)
            best = score.argsort(descending=True, stable=True)[:budget].sort().values
            kept.add(tokens[best], coordinates[best])
            chosen.append(t * m + best)
        return torch.cat(chosen)


@dataclass(frozen=True)
class Cells:
    """The means of a video over cells of 2x2 tokens, float32 or float64, and what follows from them.

    Attributes:
        of_token: int64 [M], the cell of each token.
        sizes: [cells], how many tokens each cell has.
        means: [T, cells, D].
        frames: [T, D], the mean token of each frame.
        centre: [D], the mean token of the video. It is not finite if x is not.
    """

    of_token: Tensor
    sizes: Tensor
    means: Tensor
    frames: Tensor
    centre: Tensor

    @classmethod
    def of(cls, x: Tensor, rows: int, columns: int) -> Cells:
        """Take the means of x [T, M, D], whose frames have rows · columns = M tokens."""
        across = -(-columns // 2)
        cell = (torch.arange(rows)[:, None] // 2 * across + torch.arange(columns) // 2).flatten()
        dtype = torch.promote_types(x.dtype, torch.float32)
        pooled = [
            avg_pool2d(part.to(dtype).unflatten(1, (rows, columns)).permute(0, 3, 1, 2), 2, ceil_mode=True)
            for part in x.split(max(1, SLICE // x[0].numel()))
        ]
        means = torch.cat([part.permute(0, 2, 3, 1).flatten(1, 2) for part in pooled])
        sizes = cell.bincount().to(means)
        frames = (sizes @ means) / len(cell)
        return cls(cell.to(x.device), sizes, means, frames, frames.mean(dim=0))


def _debias(x: Tensor, centre: Tensor, direction: Tensor) -> Tensor:
    """y of eq. 3, for tokens x [..., D]."""
    return x - (x @ direction[:, None] - (centre * direction).sum()) * direction


def _scaled(scores: Tensor) -> Tensor:
    """Scores [n] between 0 and 1, or 0 if they are equal but for rounding."""
    low, high = scores.aminmax()
    return torch.where(high - low > FLAT * high, (scores - low) / (high - low), 0)
