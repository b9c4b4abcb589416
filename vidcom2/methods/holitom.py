"""HoliTom, its part before the LLM: "HoliTom: Holistic Token Merging for Fast Video Large Language Models",
https://arxiv.org/abs/2505.21334, sections 3.2 and 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from vidcom2.budget import total_budget
from vidcom2.clustering import centres, nearest_centre
from vidcom2.compressor import Compressor, Kept
from vidcom2.features import all_finite, require_finite
from vidcom2.settings import check_choice
from vidcom2.specs import register


@register("holitom")
@dataclass(frozen=True)
class HoliTom(Compressor):
    """Cut the video into windows so that as many tokens as possible stand still in them; merge these; thin the rest.

    A place m is static in the window of frames a..b when cos(x_t,m, x_t+1,m) > tau for all t = a .. b-1. The windows
    are those with the largest sum of (static places) (b - a), which is how many tokens merging over time saves; frames
    that gain nothing stand alone. With `saved` that sum, r = min(1, R T M / (T M - saved)), and per window:
        static    the mean over a..b of each static place; r of these, DPC-KNN centres, the others merged into them
        dynamic   of each frame, r of its other tokens: of these `clustered` DPC-KNN centres, the rest merged into them;
                  the others are the tokens with the largest |x|
        merging   a centre c becomes w c + (1 - w) mean of the tokens nearest to it, w = centre_weight

    Before the LLM; the paper merges once more inside it. The paper ranks by the attention of the vision tower's CLS
    token, for which |x| stands in here, as in the adoption by VidCom²'s authors.

    form: "mended", the default, keeps round(R·T·M) tokens (but never less than T) at real positions: merged static
        tokens are at their centre's place in the window's first frame. r is what this needs, shared by largest
        remainder. Where merging over time saves more than R asks for, the tokens merged away that were least like the
        one before come back as they are. "released": see `released`.
    neighbours: of the density. max_window: frames of a window at most.
    """

    form: Literal["mended", "released"] = "mended"
    tau: float = 0.8
    centre_weight: float = 0.6
    clustered: float = 0.0
    neighbours: int = 7
    max_window: int = 1024

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "NeurIPS 2025"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.21334"
    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    reachable: ClassVar[str] = "any; `released`: up to one token per frame above R, and far less for still videos"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "form", ("mended", "released"))
        for setting in ("neighbours", "max_window"):
            if getattr(self, setting) < 1:
                raise ValueError(f"{setting}={getattr(self, setting)!r} must be at least 1")
        for setting in ("clustered", "centre_weight"):
            if not 0 <= getattr(self, setting) <= 1:
                raise ValueError(f"{setting}={getattr(self, setting)!r} must be in [0, 1]")

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> HoliTom:
        """The adoption by VidCom²'s authors, whose positions are made up.

        round(r n) of n static tokens per window and ceil(r n) of n dynamic ones per frame stay, in the order: window's
        static tokens, then its frames' dynamic ones. `index` does not say where these come from: it is N positions
        evenly spaced over the video, and the tokens are put there in order. Budgets follow from these.
        """
        return cls(retention, **{"form": "released", **settings})

    def _select(self, x: Tensor) -> Kept:
        frames, m = x.shape[:2]
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        steps = cosine_similarity(exact[1:], exact[:-1], dim=-1)  # [T-1, M]
        # One wait for the device; the windows are decided on the host.
        finite, *still = torch.cat([all_finite(x)[None], (steps > self.tau).flatten()]).tolist()
        require_finite(bool(finite), x)
        groups = self._groups(torch.tensor(still, dtype=torch.bool).view(frames - 1, m))
        left = sum(len(group.places) for group in groups)
        if self.form == "released":
            r = min(self.retention / (left / (frames * m)), 1)
            sizes = [(math.ceil if group.last is None else round)(len(group.places) * r) for group in groups]
        else:
            total = total_budget(self.retention, frames, m)
            sizes = _share(min(total, left), [len(group.places) for group in groups])

        index, features = [], []
        length = torch.linalg.vector_norm(exact, dim=-1)
        for group, size in zip(groups, sizes, strict=True):
            places = group.places.to(x.device)
            if group.last is not None:
                tokens, dominant = exact[group.first : group.last + 1, places].mean(dim=0), 0
            else:
                tokens, dominant = exact[group.first, places], round((1 - self.clustered) * size)
            chosen, made = self._thin(tokens, length[group.first, places], dominant, size)
            index.append(group.first * m + places[chosen])
            features.append(made)
        kept, merged = torch.cat(index), torch.cat(features)

        if self.form == "released":
            if not len(kept):
                raise ValueError(
                    f"{self.spec} keeps no token of a video of shape {tuple(x.shape)}; holitom (mended) does"
                )
            kept = torch.linspace(0, frames * m - 1, len(kept)).long().to(x.device)
        else:
            if total > left:
                back = self._least_like_before(groups, steps, total - left)
                kept, merged = torch.cat([kept, back]), torch.cat([merged, exact.flatten(0, 1)[back]])
            order = kept.argsort()
            kept, merged = kept[order], merged[order]
        return Kept(kept, torch.bincount(kept // m, minlength=frames), merged.to(x.dtype))

    def _groups(self, still: Tensor) -> list[Group]:
        """All groups of tokens that are thinned on their own, in order, for still bool [T-1, M]."""
        groups = []
        for first, last in windows(still, self.max_window):
            static = still[first:last].all(dim=0) & (last > first)
            if last > first:
                groups.append(Group(first, last, static.nonzero().flatten()))
            groups += [Group(t, None, (~static).nonzero().flatten()) for t in range(first, last + 1)]
        return [group for group in groups if len(group.places)]

    def _thin(self, tokens: Tensor, length: Tensor, dominant: int, size: int) -> tuple[Tensor, Tensor]:
        """tokens [n, D] -> `size` of them: `dominant` longest ones, then merged ones: (int64 [size], [size, D])."""
        order = length.argsort(descending=True, stable=True)
        best, rest = order[:dominant].sort().values, order[dominant:].sort().values
        clusters = size - dominant
        if not clusters:
            return best, tokens[best]
        others = tokens[rest]
        chosen = centres(others, clusters, min(self.neighbours, clusters)).sort().values
        owner = nearest_centre(others, chosen)
        belongs = owner == torch.arange(clusters, device=tokens.device)[:, None]
        belongs[:, chosen] = False
        count = belongs.sum(dim=1, keepdim=True)
        mean = belongs.to(tokens.dtype) @ others / count.clamp_min(1)
        mixed = self.centre_weight * others[chosen] + (1 - self.centre_weight) * mean
        made = torch.where(count > 0, mixed, others[chosen])
        return torch.cat([best, rest[chosen]]), torch.cat([tokens[best], made])

    def _least_like_before(self, groups: list[Group], steps: Tensor, count: int) -> Tensor:
        """Positions of the `count` tokens that merging over time saved, but that moved most: int64 [count]."""
        saved = torch.zeros(steps.shape, dtype=torch.bool)
        for group in groups:
            if group.last is not None:
                saved[group.first : group.last, group.places] = True
        moved = steps.masked_fill(~saved.to(steps.device), torch.inf).flatten()
        return moved.argsort(stable=True)[:count] + steps.shape[1]  # steps begin at the second frame


@dataclass(frozen=True)
class Group:
    """Tokens thinned together: places int64 [n] static over the frames first..last, or (last is None) of one frame."""

    first: int
    last: int | None
    places: Tensor


def windows(still: Tensor, longest: int) -> list[tuple[int, int]]:
    """The windows (first, last) that save the most, in order, for still bool [T-1, M] on the CPU.

    still[t]: which places stand still from frame t to t+1. Of equally good ones, the last window is a single frame if
    it can be, else the longest.
    """
    frames, m = len(still) + 1, still.shape[1]
    run = torch.zeros(m, dtype=torch.int64)  # for how many steps each place has stood still
    best, start = torch.zeros(frames + 1, dtype=torch.int64), [0] * frames  # best[t]: savings of the first t frames
    for last in range(frames):
        if last:
            run = torch.where(still[last - 1], run + 1, 0)
        # static[n]: places that have stood still for at least n steps
        static = torch.bincount(run, minlength=last + 1).flip(0).cumsum(0).flip(0)
        n = torch.arange(min(last, longest - 1), -1, -1)  # steps of the window, the longest first
        savings = best[last - n] + static[n] * n
        best[last + 1] = savings.max()
        single = int(savings[-1]) == int(savings.max())
        start[last] = last if single else last - int(n[savings.argmax()])
    found = []
    last = frames - 1
    while last >= 0:
        found.append((start[last], last))
        last = start[last] - 1
    return found[::-1]


def _share(total: int, sizes: list[int]) -> list[int]:
    """`total` in proportion to `sizes`, by largest remainder; of equal remainders, the first."""
    shares = [total * size // sum(sizes) for size in sizes]
    remainders = [total * size % sum(sizes) for size in sizes]
    for i in sorted(range(len(sizes)), key=lambda i: -remainders[i])[: total - sum(shares)]:
        shares[i] += 1
    return shares
