"""HoliTom, its part before the LLM: "HoliTom: Holistic Token Merging for Fast Video Large Language Models",
https://arxiv.org/abs/2505.21334, sections 3.2 and 3.3.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vidcom2.budget import total_budget
from vidcom2.compressor import Compressor, Kept
from vidcom2.features import require_finite
from vidcom2.pieces.clustering import centres_among, nearest_among, squared_distances
from vidcom2.pieces.cosines import pair_cosines
from vidcom2.pieces.merging import group_means
from vidcom2.settings import check_at_least_one, check_choice, check_share
from vidcom2.specs import register


@register("holitom")
@dataclass(frozen=True)
class HoliTom(Compressor):
    """Cut the video into windows in which as many tokens as possible stand still; merge these, and thin the rest.

    A position m of the frame is static in the window of frames a..b if cos(x_t,m, x_t+1,m) > tau for all t = a .. b-1.
    The windows maximise saved = sum over windows of (static positions) (b - a), the tokens that merging over time
    saves. Frames that gain nothing stand alone. With r = min(1, R T M / (T M - saved)), per window:

        static    each static position becomes its mean over a..b. The share r of these means stay: DPC-KNN centres,
                  with the others merged into them.
        dynamic   of the other tokens of each frame, the share r stays: `clustered` of these are DPC-KNN centres, the
                  others are the tokens with the largest |x|. Tokens that do not stay are merged into the centres.
        merging   a centre c becomes w c + (1 - w) mean of the tokens nearest to it, with w = centre_weight

    Before the LLM. The paper merges once more inside the LLM; this does not. The paper ranks by the attention of the
    vision tower's CLS token. |x| stands in for it here, as in the adoption by the authors of VidCom².

    Args:
        form: "mended" keeps round(R·T·M) tokens, but at least T, at real positions: a merged static token has its
            centre's position in the first frame of the window. r is what this needs, shared by largest remainder. If
            merging over time saves more than R asks for, the merged tokens that were least like the token before them
            come back as they are. For "released", see the classmethod `released`.
        tau: A token stands still if its cosine to the next frame's token is above this.
        centre_weight: Weight of a centre in its merged token.
        clustered: The share of clustered tokens among the dynamic tokens that stay.
        neighbours: How many nearest tokens the density looks at.
        max_window: The largest number of frames in a window.
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
        check_at_least_one(self, "neighbours", "max_window")
        check_share(self, "clustered", "centre_weight")

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> HoliTom:
        """Build the adoption by the authors of VidCom², which does not keep track of positions.

        round(r n) of n static tokens per window and ceil(r n) of n dynamic tokens per frame stay. Their order is: the
        static tokens of a window, then the dynamic tokens of its frames. `index` does not say where they come from: it
        holds N positions spaced evenly over the video, and the tokens go there in order. Budgets follow from these.
        """
        return cls(retention, **{"form": "released", **settings})

    def _select(self, x: Tensor) -> Kept:
        frames, m = x.shape[:2]
        cosine, length = pair_cosines(x, (torch.arange(frames, device=x.device) - 1).clamp_min(0))
        steps = cosine[1:]  # [T-1, M]
        # One host synchronisation. The windows are then decided on the host.
        finite, *still = torch.cat([length.sum().isfinite()[None], (steps > self.tau).flatten()]).tolist()
        require_finite(bool(finite), x)
        groups = self._groups(torch.tensor(still, dtype=torch.bool).view(frames - 1, m))
        left = sum(len(group.places) for group in groups)
        if self.form == "released":
            r = min(self.retention / (left / (frames * m)), 1)
            sizes = [(math.ceil if group.last is None else round)(len(group.places) * r) for group in groups]
        else:
            total = total_budget(self.retention, frames, m)
            sizes = proportional_shares(min(total, left), [len(group.places) for group in groups])

        thinned = [self._thin(x, length, group, size) for group, size in zip(groups, sizes, strict=True)]
        place = torch.cat([places for places, _ in thinned])
        if self.form == "released":
            if not len(place):
                raise ValueError(
                    f"{self.spec} keeps no token of a video of shape {tuple(x.shape)}; holitom (mended) does"
                )
            index, order = torch.linspace(0, frames * m - 1, len(place)).long().to(x.device), None
        else:
            if total > left:
                place = torch.cat([place, self._least_like_before(groups, steps, total - left)])
            index, order = place.sort()
            place = index
        features = x.flatten(0, 1).index_select(0, place)
        self._put_merged(features, thinned, order)
        return Kept(index, torch.bincount(index // m, minlength=frames), features)

    @property
    def tells_places(self) -> bool:
        """See `Compressor.tells_places`."""
        return self.form == "mended"

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        if self.retention == 1 or self.form == "released":
            return super().total(frames, m)
        return total_budget(self.retention, frames, m)

    def _groups(self, still: Tensor) -> list[Group]:
        """The groups of tokens that are thinned on their own, in order, for still bool [T-1, M]."""
        groups = []
        for first, last in windows(still, self.max_window):
            static = still[first:last].all(dim=0) & (last > first)
            if last > first:
                groups.append(Group(first, last, static.nonzero().flatten()))
            groups += [Group(t, None, (~static).nonzero().flatten()) for t in range(first, last + 1)]
        return [group for group in groups if len(group.places)]

    def _thin(self, x: Tensor, length: Tensor, group: Group, size: int) -> tuple[Tensor, Tensor]:
        """Thin a group: first the tokens that stay as they are, then those that others were merged into.

        Args:
            x: Features [T, M, D].
            length: The tokens' lengths [T, M].
            group: The group.
            size: How many of its tokens stay.

        Returns:
            Positions in the flattened T·M tokens, int64 [size]; and the merged ones [clusters, D], the last of these.
        """
        places, wide = group.places.to(x.device), length.dtype
        dominant = 0 if group.last is not None else round((1 - self.clustered) * size)
        order = length[group.first, places].argsort(descending=True, stable=True)
        best, rest = order[:dominant].sort().values, order[dominant:].sort().values
        at, clusters = group.first * x.shape[1] + places, size - dominant
        if not clusters:
            return at[best], x.new_empty(0, x.shape[-1], dtype=wide)
        if group.last is None:
            others = x[group.first].index_select(0, places[rest]).to(wide)
        else:
            others = x[group.first : group.last + 1].mean(dim=0, dtype=wide).index_select(0, places[rest])
        squares = squared_distances(others)
        chosen = centres_among(squares, clusters, min(self.neighbours, clusters)).sort().values
        owner = nearest_among(squares[:, chosen], chosen).index_fill(0, chosen, clusters)  # a centre joins none
        mean, count = group_means(others, owner, clusters)
        mixed = self.centre_weight * others[chosen] + (1 - self.centre_weight) * mean
        return at[torch.cat([best, rest[chosen]])], torch.where(count[:, None] > 0, mixed, others[chosen])

    def _put_merged(self, features: Tensor, thinned: list[tuple[Tensor, Tensor]], order: Tensor | None) -> None:
        """Put merged tokens in their rows of features [N, D], which come one group after the other, or in `order`."""
        ends = [0, *itertools.accumulate(len(places) for places, _ in thinned)]
        slots = [torch.arange(end - len(made), end) for end, (_, made) in zip(ends[1:], thinned, strict=True)]
        slot = torch.cat(slots).to(features.device)
        if order is not None:
            slot = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))[slot]
        features.index_copy_(0, slot, torch.cat([made for _, made in thinned]).to(features.dtype))

    def _least_like_before(self, groups: list[Group], steps: Tensor, count: int) -> Tensor:
        """The positions of the `count` tokens, among those that merging over time saved, that moved most."""
        saved = torch.zeros(steps.shape, dtype=torch.bool)
        for group in groups:
            if group.last is not None:
                saved[group.first : group.last, group.places] = True
        moved = steps.masked_fill(~saved.to(steps.device), torch.inf).flatten()
        return moved.argsort(stable=True)[:count] + steps.shape[1]  # steps begin at the second frame


@dataclass(frozen=True)
class Group:
    """Tokens that are thinned together.

    Attributes:
        first: The first frame.
        last: The last frame of a window in which the places are static; None for dynamic tokens of the frame `first`.
        places: int64 [n], positions in the frame.
    """

    first: int
    last: int | None
    places: Tensor


def windows(still: Tensor, longest: int) -> list[tuple[int, int]]:
    """Return the windows that save the most tokens, by dynamic programming over their last frames.

    Of equally good choices, a window is a single frame if it can be, otherwise the longest.

    Args:
        still: bool [T-1, M] on the CPU. still[t] says which positions stand still from frame t to t+1.
        longest: The largest number of frames in a window.

    Returns:
        (first, last) of each window, in order.
    """
    frames, m = len(still) + 1, still.shape[1]
    run = torch.zeros(m, dtype=torch.int64)  # for how many steps each position has stood still
    best, start = torch.zeros(frames + 1, dtype=torch.int64), [0] * frames  # best[t]: savings of the first t frames
    for last in range(frames):
        if last:
            run = torch.where(still[last - 1], run + 1, 0)
        # static[n]: how many positions have stood still for at least n steps
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


def proportional_shares(total: int, sizes: list[int]) -> list[int]:
    """Return `total` in proportion to `sizes`, by largest remainder; of equal remainders, the first wins."""
    shares = [total * size // sum(sizes) for size in sizes]
    remainders = [total * size % sum(sizes) for size in sizes]
    for i in sorted(range(len(sizes)), key=lambda i: -remainders[i])[: total - sum(shares)]:
        shares[i] += 1
    return shares
