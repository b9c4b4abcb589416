"""AOT: "Token Reduction via Local and Global Contexts Optimization for Efficient Video Large Language Models",
https://arxiv.org/abs/2603.01400.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vidcom2.budget import equal_budgets, total_budget
from vidcom2.compressor import Kept
from vidcom2.features import has_float64, lengths, require_finite
from vidcom2.kernels.in_slices import by_frames
from vidcom2.pieces.clips import Clips, cut, sums_in_clips
from vidcom2.pieces.sketch import WIDE, sketch_and_lengths
from vidcom2.pieces.transport import cosines, distances, transport
from vidcom2.ranking import Ranking, ranks, window_ranks
from vidcom2.settings import check_at_least_one, check_choice, check_share
from vidcom2.specs import register

SIDE = 3
"""A frame has SIDE · SIDE windows."""
DISTANCE = 0.5
"""Weight of the distance within the frame in the cost."""
NEAREST = 0.1
"""Weight of the plain mean beside the transported one."""
SPREAD = 1.5
"""Frames over which the cost between frames grows: the standard deviation of a Gaussian."""
BLUR = 0.1
"""Entropic regularisation of the transport."""
CHUNK = 8
"""So many frames at a time have their anchors merged: their tokens stay in a CPU's cache."""
ENOUGH = 1e-2
"""The authors' code stops iterating when r changes by less than this, on average."""


@register("aot")
@dataclass(frozen=True)
class Aot(Ranking):
    """Choose anchors in each frame, and move the other tokens into them by optimal transport; then across frames.

    P(cost) is the transport plan from n tokens to a anchors: diag(r) exp(-cost / 0.1) diag(c), whose rows sum to 1/n
    and whose columns sum to 1/a, by Sinkhorn's iteration. Within a frame with a anchors among its M tokens:

        local       the strongest tokens of each of 3 x 3 windows: int((1 - global_share) a) // 9 of each
        global      the strongest of the others, up to a anchors
        merging     with P = P(1 - cos + 0.5 d) from the M - a other tokens x_i to the anchors y_j, d the distance in a
                    frame with sides of length 1, and N_j the tokens to which y_j is the most similar anchor:
                    y_j <- 0.9 (y_j + sum_i P_ij x_i) / (1 + sum_i P_ij) + 0.1 (y_j + sum N_j) / (1 + |N_j|)

    The video is cut into `clips` clips. The frames of a clip move into the anchors y of its first frame, one after the
    other. With x the anchors of the frame that is s frames behind the first:

        p           P((1 - cos) (1 - exp(-s² / 4.5))), each row divided by its sum
        residual    the share `residual` of x with the smallest max_j p_ij, which fit no y_j well, stays as it is
        merging     the others move: y_j <- (y_j + sum_i p_ij x_i) / (1 + sum_i p_ij)

    Before the LLM. The paper ranks by the attention that a token receives in the vision tower: local tokens in a
    shallow layer, global ones in a deep layer. A method sees no attention here, so |x| stands in for both. The authors'
    code chooses among 27 x 27 patches and pools them to 14 x 14 after the first merging. Here they are pooled already.

    Where D is above 256, "mended" takes cosines from sketches of 256 channels (`pieces.sketch`): of random features
    with D = 3584, 81 % of the tokens that are kept without sketches are kept with them; of a synthetic video whose
    tokens recur with much noise, 91 %.

    P sums to 1, so all other tokens of its frame give an anchor 1/a, beside its own weight of 1. This is the code's
    choice of scale.

    Args:
        form: "mended" keeps round(R·T·M) tokens, but at least one per frame, each at its own position. The merged
            anchors of a clip stand in its first frame. A later frame that keeps k tokens has k / `residual` anchors, at
            most M. The k are shared so that all frames have about equally many anchors, or they are VidCom²'s with
            +fca. For "released", see the classmethod `released`.
        clips: Clips of a video, of equal length. The code has 8 for 32 and 64 frames, and refuses other lengths. From T
            on, no tokens move across frames, as in the authors' script for LLaVA-Video.
        residual: The authors' script for LLaVA-OneVision has 0.3 for MVBench and EgoSchema, the default here, and 0.1
            for Video-MME and LongVideoBench.
        global_share: The share of the global anchors.
        iterations: Of Sinkhorn. "released" takes as many as the code, up to 100.
        anchors: For "released" only: the anchors of each frame, instead of those that R asks for. The script has 126 of
            729 patches where it has 0.3 for `residual`, and 108 where it has 0.1.
    """

    form: Literal["mended", "released"] = "mended"
    clips: int = 8
    residual: float = 0.3
    global_share: float = 0.5
    iterations: int = 5
    anchors: int | None = None

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "CVPR 2026"
    paper: ClassVar[str] = "https://arxiv.org/abs/2603.01400"
    video_specific: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    ranks_alone: ClassVar[bool] = False
    uses_grid: ClassVar[bool] = True
    reachable: ClassVar[str] = (
        "any; `released`: up to 0.7 at 32 frames. The authors pool later, so their ratio varies: 22–25 % by file names"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "form", ("mended", "released"))
        check_at_least_one(self, "clips", "iterations")
        check_share(self, "residual", "global_share")
        if self.residual == 0:
            raise ValueError("residual=0.0 must be in (0, 1]; 0.3 is the default")
        if self.form == "released" and self.fca is not None:
            raise ValueError("aot.released gives every frame equally many anchors and cannot take +fca; aot+fca can")
        if self.form == "released" and self.iterations != Aot.iterations:
            raise ValueError(f"iterations={self.iterations!r} changes nothing: aot.released iterates as the code does")
        if self.anchors is not None and (self.form != "released" or self.anchors < 1):
            raise ValueError(f"anchors={self.anchors!r} must be at least 1 and needs aot.released; aot solves for R")

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> Aot:
        """Build what the authors' code does, on features that are pooled already.

        - For each clip come the anchors of its first frame, the residual tokens of its other frames, and the anchors
          once more, with the other frames moved into them. A clip of one frame has its anchors once.
        - `index` does not say where tokens come from: it holds N positions spaced evenly over the video.
        - n anchors are asked for, and int((1 - global_share) n) mod 9 of them are lost. n comes as near to R·T·M
          tokens as it can. With `anchors` given, R has no effect, but R = 1 keeps everything.
        - The number of residual tokens is ceil(residual (n - 1)), less if they tie.

        `select` raises ValueError for an R that this cannot reach.
        """
        return cls(retention, **{"form": "released", **settings})

    def scores(self, x: Tensor) -> Tensor:
        """Return the tokens' lengths |x|, [T, M]."""
        (length,) = by_frames(lambda x: (lengths(x),), x)
        return length

    def own_budgets(self, x: Tensor) -> Tensor:
        """Return the tokens that each frame keeps, int64 [T]; for "released", the anchors of each frame."""
        if self.fca is not None:
            return super().own_budgets(x)
        frames, m = x.shape[:2]
        if self.form == "released":
            return torch.full((frames,), self._released_anchors(frames, m), device=x.device)
        total = total_budget(self.retention, frames, m)
        first = [t for part in cut(frames, self.clips) for t in part.firsts]
        firsts, others = len(first), frames - len(first)
        wanted = round(total * others * self.residual / (firsts + others * self.residual))
        for_others = max(wanted, others, total - firsts * m)
        budgets = torch.zeros(frames, dtype=torch.int64)
        is_first = torch.zeros(frames, dtype=torch.bool)
        is_first[first] = True
        budgets[is_first] = equal_budgets(total - for_others, firsts)
        budgets[~is_first] = equal_budgets(for_others, others)
        return budgets.to(x.device)

    @property
    def tells_places(self) -> bool:
        """See `Compressor.tells_places`."""
        return self.form == "mended"

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        if self.retention < 1 and self.form == "released":
            return None
        return super().total(frames, m)

    def rank(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Ranking.rank`. Lengths are finite only if x is, which saves a pass over x."""
        scores = self.scores(x)
        return scores, self.frame_budgets(x), scores.sum().isfinite()

    def _select_grid(self, x: Tensor, rows: int, columns: int) -> Kept:
        mended, values = self.form == "mended", x.detach()  # gradients flow to what moves, not to how much of it
        compared, scores = sketch_and_lengths(values, WIDE) if mended else (x, self.scores(values))
        budgets, finite = self.frame_budgets(values), scores.sum().isfinite()
        sound, *kept = torch.cat([finite.long()[None], budgets]).tolist()
        require_finite(bool(sound), x)
        frames, m = x.shape[:2]
        clips = cut(frames, self.clips)
        first = {t for part in clips for t in part.firsts}
        counts = kept
        if mended:
            counts = [k if t in first else min(m, round(k / self.residual)) for t, k in enumerate(kept)]
        local = [int(n * (1 - self.global_share)) // SIDE**2 for n in counts]
        if not mended:
            counts = [_without_loss(n, self.global_share) for n in counts]

        count, of_window = torch.tensor([counts, local], device=x.device)[..., None]
        in_window = window_ranks(scores, (rows, columns), SIDE) < of_window
        anchor = ranks(-scores.masked_fill(in_window, torch.inf)) < count
        places = (~anchor).byte().argsort(dim=1, stable=True)  # the anchors first, then the others, each ascending
        there = torch.arange(max(1, *counts), device=x.device) < count
        if not mended:
            return self._released(x, self._anchors_at_once(x, scores, places, counts[0], (rows, columns)), there)

        length = lengths(compared) if x.shape[2] > WIDE else scores
        weights = places.new_zeros(*there.shape, m, dtype=length.dtype)
        tokens = self._anchors(compared, length, places, counts, (rows, columns), weights)
        moves = [self._across_clips(part, tokens, weights, there, counts, budgets) for part in clips]
        stay = there.flatten().nonzero().flatten()
        own = weights.flatten(0, 1).index_select(0, stay).split(kept)
        index = (places + m * torch.arange(frames, device=x.device)[:, None])[:, : tokens.shape[1]]
        made = Kept(index.flatten()[stay], budgets, sums_in_clips(x, own, clips, moves).to(x.dtype))
        limits = self.limits(frames, m)
        return made if limits is None else replace(made, by_hand=limits.by_hand)

    def _anchors(
        self, x: Tensor, length: Tensor, places: Tensor, counts: list[int], grid: tuple[int, int], weights: Tensor
    ) -> Tensor:
        """Return the anchors of each frame [T, A, d], A = max(counts), with the other tokens moved into them.

        What is behind the anchors of a frame that has fewer than A means nothing.

        Args:
            x: What tokens are compared by, [T, M, d]: sketches, or they themselves.
            length: Its lengths [T, M].
            places: int64 [T, M], where in their frame the anchors are, and behind them where the others are.
            counts: Anchors of each frame.
            grid: Rows and columns of a frame.
            weights: Zeros [T, A, M], which become the weights of the tokens of a frame in its anchors.
        """
        total, m, size = x.shape
        flat, slot = x.flatten(0, 1), torch.arange(m, device=x.device)
        anchors = length.new_empty(total, max(1, *counts), size)
        alike = sorted(range(total), key=counts.__getitem__)  # so that little in a chunk is padding
        for chosen in (alike[i : i + CHUNK] for i in range(0, total, CHUNK)):
            fewest, most = counts[chosen[0]], max(1, counts[chosen[-1]])
            frames, count = torch.tensor([chosen, [counts[t] for t in chosen]], device=x.device)[..., None]
            place = places[frames[:, 0]]
            y = flat[(place + m * frames)[:, :most]].to(anchors.dtype)
            own = y.new_ones(len(chosen), most, 1)
            if fewest < m:
                others, long = flat[(place + m * frames)[:, fewest:]].to(y.dtype), length[frames, place]
                cosine = cosines(others.detach(), y.detach(), long[:, fewest:], long[:, :most])
                cost = 1 - cosine + DISTANCE * distances(place[:, fewest:], place[:, :most], grid).to(cosine.dtype)
                own, pull = self._within(cosine, cost, slot[:most] < count, slot[fewest:] >= count)
                y.mul_(own).baddbmm_(pull, others)
                part = place[:, None, fewest:].expand_as(pull)
                weights[frames[:, 0], :most] = pull.new_zeros(*pull.shape[:2], m).scatter_(2, part, pull)
            weights[frames, slot[:most], place[:, :most]] = own[..., 0]
            anchors[frames[:, 0], :most], anchors[frames[:, 0], most:] = y, 0
        return anchors

    def _anchors_at_once(self, x: Tensor, length: Tensor, places: Tensor, count: int, grid: tuple[int, int]) -> Tensor:
        """Return `_anchors` [T, count, D]: all frames have `count`, and iterate together, as in the authors' code."""
        at, flat = places + x.shape[1] * torch.arange(len(x), device=x.device)[:, None], x.flatten(0, 1)
        first, rest, long = slice(count), slice(count, None), length.gather(1, places)
        parts = [slice(i, i + CHUNK) for i in range(0, len(x), CHUNK)]

        def tokens(part: slice, columns: slice) -> Tensor:
            return flat[at[part, columns]].to(length.dtype)

        if count == x.shape[1]:
            return tokens(slice(None), first)
        with torch.no_grad():
            both = ((tokens(part, rest), tokens(part, first), long[part, rest], long[part, first]) for part in parts)
            cosine = torch.cat([cosines(*each) for each in both])
        cost = 1 - cosine + DISTANCE * distances(places[:, rest], places[:, first], grid).to(cosine.dtype)
        there = torch.ones_like(places, dtype=torch.bool)
        own, pull = self._within(cosine, cost, there[:, first], there[:, rest])
        anchors = length.new_empty(len(x), count, x.shape[2])
        for part in parts:  # gathered once more: all tokens at once would take the memory of the features
            anchors[part] = (own[part] * tokens(part, first)).baddbmm_(pull[part], tokens(part, rest))
        return anchors

    def _within(self, cosine: Tensor, cost: Tensor, there: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """What the A anchors of frames become: their own weights [B, A, 1], and those of the N other tokens [B, A, N].

        Args:
            cosine: [B, N, A].
            cost: [B, N, A].
            there: bool [B, A], which of the anchors exist.
            moving: bool [B, N], which of the other tokens exist.
        """
        plan = self._plan(cost, moving, there)
        nearest = cosine.masked_fill(~there[:, None], -torch.inf).argmax(dim=2, keepdim=True)
        belongs = torch.zeros_like(plan).scatter_(2, nearest, moving[..., None].to(plan.dtype))
        load, number = plan.sum(dim=1), belongs.sum(dim=1)
        pull = (1 - NEAREST) / (1 + load[:, None]) * plan + NEAREST / (1 + number[:, None]) * belongs
        own = (1 - NEAREST) / (1 + load) + NEAREST / (1 + number)
        return own[..., None], pull.mT

    def _across_clips(
        self, clips: Clips, tokens: Tensor, weights: Tensor, there: Tensor, counts: list[int], budgets: Tensor
    ) -> list[Tensor]:
        """Move the frames of clips of one length into their first frames; `there` becomes what stays, in place.

        Args:
            clips: The clips.
            tokens: The anchors of all frames, as they are compared, [T, A, d]. They are overwritten.
            weights: [T, A, M], those of the tokens of a frame in its anchors.
            there: bool [T, A], which anchors exist.
            counts: How many do.
            budgets: int64 [T].

        Returns:
            For each step from a first frame, the weights of the tokens of the frame there in the clip's anchors in the
            end, [number, anchors, M].
        """
        tokens, weights, there, budgets = (clips.view(each) for each in (tokens, weights, there, budgets))
        most = [max(1, *(counts[t + step] for t in clips.firsts)) for step in range(clips.length)]
        y, anchors = (each[:, 0, : most[0]] for each in (tokens, there))
        moves, shares = [weights[:, 0, : most[0]]], []
        for step in range(1, clips.length):
            x, moving = (each[:, step, : most[step]] for each in (tokens, there))
            stay, plan, share = self._across(y, anchors, x, moving, step, budgets[:, step])
            y.baddbmm_(plan, x).div_(share)
            moves.append(plan @ weights[:, step, : most[step]])
            shares.append(share)
            moving.copy_(stay)
        left: Tensor | float = 1.0
        for step in range(clips.length - 1, 0, -1):
            left = left / shares[step - 1]
            moves[step] *= left
        moves[0] = moves[0] * left
        return moves

    def _across(
        self, y: Tensor, there: Tensor, x: Tensor, moving: Tensor, step: int, budgets: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Plan how the tokens x of frames that are `step` frames behind move into the anchors y.

        Args:
            y: Anchors [B, A, d], or sketches of them.
            there: bool [B, A], which of them exist.
            x: Tokens [B, N, d], or sketches of them.
            moving: bool [B, N], which of them exist.
            step: s.
            budgets: int64 [B], how many of x stay; None for the share `residual`.

        Returns:
            bool [B, N], which of x stay; weights [B, A, N] with which the others come to the anchors; and what the sums
            are divided by, [B, A, 1].
        """
        x, y = x.detach(), y.detach()
        cost = 1 - cosines(x, y, lengths(x), lengths(y)).clamp_(-1 + 1e-6, 1 - 1e-6)
        cost -= cost.amin(dim=(1, 2), keepdim=True)  # this changes no plan, only when "released" stops iterating
        plan = self._plan(cost * (1 - math.exp(-(step**2) / (2 * SPREAD**2))), moving, there)
        plan /= plan.sum(dim=2, keepdim=True).clamp_min(1e-9)
        fit = plan.amax(dim=2)
        if budgets is None:
            fit = fit.double() if has_float64(fit.device) else fit  # as in the code: the bound lies between two values
            stay = fit < fit.quantile(self.residual, dim=1, keepdim=True)
        else:
            stay = (ranks(fit.masked_fill(~moving, torch.inf)) < budgets[:, None]) & moving
        plan *= ~stay[..., None]
        return stay, plan.mT, 1 + plan.sum(dim=1)[..., None]

    def _plan(self, cost: Tensor, moving: Tensor, there: Tensor) -> Tensor:
        """P(cost) [B, N, A] for the tokens `moving` [B, N] and the anchors `there` [B, A]; 0 elsewhere."""
        if self.form == "released":
            return transport(cost, moving, there, BLUR, iterations=100, enough=ENOUGH)
        return transport(cost, moving, there, BLUR, self.iterations)

    def _released(self, x: Tensor, tokens: Tensor, there: Tensor) -> Kept:
        """What the code hands to the LLM, in its order, from the anchors [T, A, D]."""
        made = []
        for part in cut(len(x), self.clips):
            for first in part.firsts:
                made.append(tokens[first].clone())
                frames = [tokens[t : t + 1] for t in range(first, first + part.length)]
                for step, frame in enumerate(frames[1:], 1):
                    stay, plan, share = self._across(frames[0], there[:1], frame, there[:1], step, None)
                    frames[0].baddbmm_(plan, frame).div_(share)
                    made.append(frame[stay])
                if part.length > 1:
                    made.append(frames[0][0])
        features, m = torch.cat(made), x.shape[1]
        index = torch.linspace(0, len(x) * m - 1, len(features)).long().to(x.device)
        return Kept(index, torch.bincount(index // m, minlength=len(x)), features.to(x.dtype))

    def _released_anchors(self, frames: int, m: int) -> int:
        """The anchors to ask of each frame."""
        clips = cut(frames, self.clips)

        def size(n: int) -> int:
            n = _without_loss(n, self.global_share)
            more = math.ceil(self.residual * (n - 1))
            return sum(c.number * (n if c.length == 1 else 2 * n + (c.length - 1) * more) for c in clips)

        wanted = self.retention * frames * m if self.anchors is None else size(self.anchors)
        possible = [n for n in range(1, m + 1) if 0 < size(n) <= frames * m]
        most = max(map(size, possible), default=0)
        if wanted > most + 1 or self.anchors not in (None, *possible):
            asked = f"reach retention={self.retention!r}" if self.anchors is None else f"take anchors={self.anchors}"
            raise ValueError(
                f"aot.released cannot {asked} on {frames} frames of {m} tokens: it keeps at most {most} of "
                f"{frames * m}; aot (without .released) reaches any retention"
            )
        return self.anchors or min(possible, key=lambda n: abs(size(n) - wanted))


def _without_loss(n: int, global_share: float) -> int:
    """The anchors that the code chooses when n are asked for: as many local ones of each window as are whole."""
    local = int(n * (1 - global_share))
    return n - local % SIDE**2
