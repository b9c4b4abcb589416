"""Fresh, a method of this project and of no paper: the uniqueness of VidCom² (https://arxiv.org/abs/2505.14454), for
what is not on show already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidcom2.budget import total_budget
from vidcom2.compressor import Compressor, Kept
from vidcom2.features import require_finite
from vidcom2.pieces.sketch import sketch
from vidcom2.specs import register
from vidcom2.uniqueness import cosine

REACH = 64
"""How many frames back a token is compared. This keeps time and memory linear in T."""
COPY = 1e-4
"""A novelty below which age does not count: the token is a copy of the one on show, and tells nothing."""
ROUNDING = 1e-6
"""A squared distance below this share of both squared lengths is one of rounding: the token is the one on show."""
TURN = 1e-12
"""What copies differ by in their scores, so that they take turns: one after the other shows a part of a still video."""
LEVELS, ROUNDS = 32, 3
"""The threshold is searched for in ROUNDS, each with LEVELS values between the nearest two of the round before."""
NEVER = 0
"""The column of `_Table` for a place that was never kept."""


@register("fresh")
@dataclass(frozen=True)
class Fresh(Compressor):
    """Keep a token if it is unlike its frame and its video, and its place is new, has changed, or was kept long ago.

    With g_v the mean of all tokens, y = x - g_v, and s the last frame before t of which the token at place m was kept:

        uniqueness  u_t,m = 1 - (cos(x, g_f,t) + cos(x, g_v)) / 2                 VidCom²'s, from 0 on
        novelty     n = |x_t,m - x_s,m|² / 2 E, E the median of all |y|²          0 for a copy, about 1 for other tokens
        age         a = (t - s) / memory, but 0 for a copy (times n / (n + 1e-4))
        score       u (n + a); and u for a place of which no token was kept yet

    Frame after frame, the tokens stay whose score reaches θ, but at least the best of each frame. θ is the same for the
    whole video, the lowest with which no more than round(R·T·M) tokens stay. The highest other scores fill up. The
    frames' budgets follow from that: a frame that shows much that is new keeps many tokens.

    VidCom² keeps what is unlike the means, so it keeps a lasting object in each frame, and of 32 equal frames the same
    places 32 times. Here a token that is kept discounts its successors until they differ, or until it is forgotten. The
    age is why a lasting thing comes back: an LLM that sees a token once cannot tell whether it lasted. Of T equal
    frames, every place is kept once before any is kept twice, and the copies that fill up take turns.

    Distances are those of sketches of 64 channels (`pieces.sketch`). A place that was kept more than 64 frames before
    is compared with its token 64 frames before. Time and memory grow with T·M.

    Args:
        memory: After so many frames, a token that is still the same counts as much as a new one.
    """

    memory: float = 16.0

    venue: ClassVar[str] = "this project"
    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory <= 0:
            raise ValueError(f"memory={self.memory!r} must be above 0: a number of frames")

    def _select(self, x: Tensor) -> Kept:
        frames, m = x.shape[:2]
        similarity = cosine(x)
        unique = (1 - (similarity.frame + similarity.video) / 2).clamp_min(0)
        # The table is small, and many small steps are faster on a CPU, whatever the device of x.
        table = _Table(sketch(x).cpu(), unique.cpu(), self.memory)
        require_finite(bool(similarity.checksum.isfinite()), x)
        kept = table.keep(total_budget(self.retention, frames, m)).to(x.device)
        return Kept(kept.flatten().nonzero().flatten(), kept.sum(dim=1))

    def total(self, frames: int, m: int) -> int:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        return frames * m if self.retention == 1 else total_budget(self.retention, frames, m)


class _Table:
    """The scores of every token, by the frame of which the token at its place was kept last.

    Args:
        short: Sketches [T, M, d].
        unique: u, [T, M].
        memory: As in `Fresh`.
    """

    def __init__(self, short: Tensor, unique: Tensor, memory: float):
        self.frames, self.m = unique.shape
        centred = (short - short.mean(dim=(0, 1))).transpose(0, 1)  # [M, T, d]
        square = centred.square().sum(dim=-1)  # [M, T]
        middle = square.median()
        middle = torch.where(middle > 0, middle, square.mean()).clamp_min(torch.finfo(square.dtype).tiny)
        frame, place = torch.arange(self.frames), torch.arange(self.m)
        turn = (place[:, None] - frame * -(-self.m // self.frames)) % self.m  # [M, T]
        self.parts = []
        for first in range(0, self.frames, REACH):
            now, seen = slice(first, first + REACH), slice(max(0, first - REACH), first + REACH)
            both = square[:, now, None] + square[:, None, seen]  # [M, t, s]
            apart = torch.baddbmm(both, centred[:, now], centred[:, seen].mT, alpha=-2)
            novelty = apart.masked_fill_(apart < ROUNDING * both, 0).div_(2 * middle)
            age = (frame[now, None] - frame[seen]) / memory
            novelty += age * (novelty / (novelty + COPY))
            scores = torch.nn.functional.pad(novelty, (1, 0), value=1.0).mul_(unique.T[:, now, None])
            self.parts.append((first, seen.start, scores.add_(TURN * (self.m - turn[:, now, None]))))

    def keep(self, total: int) -> Tensor:
        """Return which tokens stay, bool [T, M], `total` in all."""
        low, high = 0.0, float("inf")
        levels = torch.linspace(0, float(max(part.max() for *_, part in self.parts)), LEVELS + 1)[1:]
        for _ in range(ROUNDS):
            fits = torch.stack([stays.sum(dim=0) for stays, _ in self.walk(levels)]).sum(dim=0) <= total
            if not fits.any() and high == float("inf"):
                break  # so many scores are the highest one that only the best of each frame fit
            first = int(fits.int().argmax()) if fits.any() else LEVELS
            low, high = (float([low, *levels, high][first + i]) for i in range(2))
            levels = torch.linspace(low, high, LEVELS + 1)[1:]
        steps = list(self.walk(torch.tensor([high])))
        kept, scores = (torch.stack(rows)[..., 0] for rows in zip(*steps, strict=True))
        rest = scores.masked_fill(kept, -1).flatten().argsort(descending=True, stable=True)
        kept.view(-1)[rest[: total - int(kept.sum())]] = True
        return kept

    def walk(self, levels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the frames once, with several thresholds at a time, [K].

        Yields:
            Which tokens of the next frame stay, bool [M, K], and their scores, [M, K].
        """
        last = torch.full((self.m, len(levels)), NEVER)  # 1 + the frame of which the token was kept last
        level = torch.arange(len(levels))
        for first, start, part in self.parts:
            for i in range(part.shape[1]):
                t = first + i
                column = last - start
                if t > REACH:  # frames out of reach have no column, or one that is not to be used
                    column = column.clamp_min(t + 1 - REACH - start).masked_fill(last == NEVER, NEVER)
                scores = part[:, i].gather(1, column)
                stays = scores >= levels
                stays[scores.argmax(dim=0), level] = True
                last = last.masked_fill(stays, t + 1)
                yield stays, scores
