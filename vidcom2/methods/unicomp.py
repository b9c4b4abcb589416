"""UniComp: "UniComp: Rethinking Video Compression Through Informational Uniqueness",
https://arxiv.org/abs/2512.03575.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from vidcom2.budget import fill, total_budget
from vidcom2.compressor import Compressor, Kept
from vidcom2.features import require_finite
from vidcom2.frame_adjustment import FrameAdjustment
from vidcom2.kernels import kernels_for
from vidcom2.pieces.sketch import WIDE, sketch
from vidcom2.settings import check_choice
from vidcom2.specs import register

Runs = list[tuple[int, int]]
"""First and last frame of each group."""
DENSE = 8
"""A product of matrices is faster than sums of single tokens if more than one of so many is in a set."""


@register("unicomp")
@dataclass(frozen=True)
class UniComp(Compressor):
    """Average like frames, give unlike groups more tokens, and keep tokens that are unlike each other.

    1 - cos is the uniqueness of two vectors. Three steps follow each other:

        groups      a frame joins the group before it if the uniqueness of its mean token and that of the group's first
                    frame is at most `frames`, and the group is not full. The group becomes one frame, the mean.
        budgets     k_g = B softmax over groups of √G u_g, at most twice B/G, with u_g the mean uniqueness of the
                    group's mean token and those of all G groups
        choice      the token that is the most unique in the group's frame, on average over all its tokens, then the
                    next that is at least `tokens` from those chosen so far, and so on: k_g tokens
        merging     a chosen token becomes the mean of itself and the mean of all tokens less than `tokens` from it

    Where D is above 256, "mended" tells which tokens are less than `tokens` apart by sketches of 256 channels
    (`pieces.sketch`): of random features with D = 3584, it keeps the tokens that it keeps without them.

    A token stands at its place in the first frame of its group. Before the LLM. The paper takes the uniqueness of
    tokens from the keys of the vision tower's last layer, and that of groups from its pooling head. Neither is at hand
    here, so the features themselves stand in, as the authors' README does for other models.

    Args:
        form: "mended" keeps round(R·T·M) tokens, but at least T. A group has at most T·M / total frames, so that the
            groups have as many tokens. Budgets are rounded by largest remainder. What a group cannot fill with tokens
            unlike each other goes to other groups, and if none can, to the most unique of the other tokens, unmerged.
            For "released", see the classmethod `released`.
        frames: The uniqueness up to which a frame joins a group.
        tokens: The uniqueness below which a token is left out beside a chosen one.
        fca: Gives the groups VidCom²'s budgets ("unicomp+fca"), as if their means were the video's frames.
    """

    form: Literal["mended", "released"] = "mended"
    frames: float = 0.005
    tokens: float = 0.2
    fca: FrameAdjustment | None = field(default=None, kw_only=True)

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "CVPR 2026"
    paper: ClassVar[str] = "https://arxiv.org/abs/2512.03575"
    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    reachable: ClassVar[str] = "any; `released`: rounded down, and less for tokens that are like each other"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "form", ("mended", "released"))
        FrameAdjustment.check(self.fca, self.name)
        if self.form == "released" and self.fca is not None:
            raise ValueError("unicomp.released has budgets of its own and cannot take +fca; unicomp+fca can")
        for name in ("frames", "tokens"):
            if not 0 <= getattr(self, name) <= 2:
                raise ValueError(f"{name}={getattr(self, name)!r} is a 1 - cos and must be in [0, 2]")

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> UniComp:
        """Build what the authors' code does with the features alone, without the newline that it puts behind groups.

        - A group has at most int(1/R) + 1 frames. If all G·M tokens of the groups fit into int(R·T·M), they all stay.
        - In place of its mean token, a group has the M means of its tokens over their channels.
        - k_g is rounded down, and may be 0. What groups at the limit leave is shared among the others, rounded down.
        - What a group cannot fill is shared among the groups that are full, once, rounded down, if all groups together
          have more chosen tokens than the budget. Otherwise it is lost.
        """
        return cls(retention, **{"form": "released", **settings})

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        rounded = self.fca is not None and self.fca.rounding != "exact"
        if self.retention == 1 or self.form == "released" or rounded:
            return super().total(frames, m)
        return total_budget(self.retention, frames, m)

    def _select(self, x: Tensor) -> Kept:
        frames, m = x.shape[:2]
        mended, values = self.form == "mended", x.detach()  # only what is kept has gradients
        total = total_budget(self.retention, frames, m) if mended else int(self.retention * frames * m)
        groups = self._groups(values, frames * m // total if mended else int(1 / self.retention) + 1)
        if not mended and len(groups) * m <= total:
            kept = torch.ones(len(groups), m, dtype=torch.bool, device=x.device)
            return self._kept(x, groups, kept, None)

        near, descriptors, order = self._compare(values, sketch(values, WIDE) if mended else values, groups)
        distinct = independent(near, order)
        rank = _rank(order, distinct)
        counts = distinct.sum(dim=1)
        if not mended:
            budgets = self._released_budgets(descriptors, total, m, counts)
        elif self.fca is not None:
            fused = torch.stack([_mean(values, first, last) for first, last in groups])
            budgets = self.fca.budgets(fused, min(1.0, total / (len(groups) * m)))
        else:
            budgets = self._mended_budgets(descriptors, total, m, counts)
        return self._kept(x, groups, rank < budgets[:, None], near & distinct[..., None])

    def _groups(self, x: Tensor, longest: int) -> Runs:
        """The groups of like frames, of at most `longest` frames."""
        means = kernels_for(x).frame_means(x)[:, 0]
        unit = normalize(means, dim=-1)
        near = 1 - unit @ unit.mT <= self.frames
        near = torch.cat([near, means.isfinite().all().expand(1, len(x))]).cpu()  # one host synchronisation
        require_finite(bool(near[-1, 0]), x)
        groups, first = [], 0
        for t in range(1, len(x)):
            if t - first >= longest or not near[t, first]:
                groups.append((first, t - 1))
                first = t
        return [*groups, (first, len(x) - 1)]

    def _compare(self, x: Tensor, short: Tensor, groups: Runs) -> tuple[Tensor, Tensor, Tensor]:
        """Who is near whom, bool [G, M, M]; descriptors of groups [G, ·]; tokens by uniqueness, int64 [G, M]."""
        near, descriptors, order = [], [], []
        for first, last in groups:
            fused, rough = _mean(x, first, last), _mean(short, first, last)
            # Scaling the M·M products is less work than scaling the tokens.
            inverse = 1 / torch.linalg.vector_norm(rough, dim=-1).clamp_min(1e-12)
            similarity = (rough @ rough.mT) * inverse * inverse[:, None]
            near.append(1 - similarity < self.tokens)
            if rough.shape[1] < fused.shape[1]:  # the mean of a token's cosines is exact at little cost
                inverse = 1 / torch.linalg.vector_norm(fused, dim=-1).clamp_min(1e-12)
                mean = (fused @ (inverse @ fused)) * inverse
            else:
                mean = similarity.mean(dim=-1)
            order.append(mean.argsort(stable=True))
            descriptors.append(fused.mean(dim=0 if self.form == "mended" else 1))
        return torch.stack(near), torch.stack(descriptors), torch.stack(order)

    def _mended_budgets(self, descriptors: Tensor, total: int, m: int, counts: Tensor) -> Tensor:
        """k_g, int64 [G]: at most `counts` tokens and twice the mean, unless these are not enough."""
        groups = len(counts)
        wanted = total * _shares(descriptors)
        budgets = torch.ones_like(counts)
        limit = torch.full_like(counts, min(m, 2 * total // groups))
        for most in (counts.minimum(limit), counts, torch.full_like(counts, m)):
            room = (most - budgets).clamp_min(0).sum()
            rest = min(total - int(budgets.sum()), int(room))
            budgets = fill(wanted, budgets, most.maximum(budgets), m, rest)
        return budgets

    def _released_budgets(self, descriptors: Tensor, total: int, m: int, counts: Tensor) -> Tensor:
        """k_g as the authors' code rounds and shares them, int64 [G]."""
        groups = len(counts)
        most = min(m, max(1, total // groups * 2))
        budgets = torch.full_like(counts, most)
        if groups > total // most:
            wanted = (total * _shares(descriptors)).floor().long()
            while True:
                full, budgets = wanted > most, wanted.clamp_max(most)
                more = max(0, total - int(budgets.sum())) // max(1, int((~full).sum()))
                if not more or not full.any():
                    break
                wanted = budgets + more * ~full
        if counts.sum() > budgets.sum():
            short = counts < budgets
            spare = int((budgets - counts)[short].sum())
            budgets = budgets + spare // max(1, int((~short).sum())) * ~short
        return budgets.minimum(counts)

    def _kept(self, x: Tensor, groups: Runs, chosen: Tensor, near: Tensor | None) -> Kept:
        """The `chosen` tokens, bool [G, M], mixed with the tokens that are `near` them, bool [G, M, M]."""
        m = x.shape[1]
        sizes = chosen.sum(dim=1).tolist()
        if not sum(sizes):
            raise ValueError(f"{self.spec} keeps no token of a video of shape {tuple(x.shape)}; unicomp (mended) does")
        places = chosen.nonzero()[:, 1].split(sizes)
        features = x.new_empty(sum(sizes), x.shape[2])
        for g, (first, last) in enumerate(groups):
            begin = sum(sizes[:g])
            rows, fused = features[begin : begin + sizes[g]], _mean(x, first, last)
            if near is None:
                rows.copy_(fused[places[g]])
                continue
            made, around = fused[places[g]], near[g, places[g]]
            count = around.sum(dim=1, keepdim=True)
            mixed = _sums(around, fused).div_(count.clamp_min(1)).add_(made).div_(2)
            rows.copy_(mixed if self.form == "released" else torch.where(count > 0, mixed, made))
        budgets = torch.zeros(len(x), dtype=torch.int64)
        budgets[[first for first, _ in groups]] = torch.tensor(sizes)
        index = torch.cat([first * m + place for (first, _), place in zip(groups, places, strict=True)])
        return Kept(index, budgets.to(x.device), features)


def independent(near: Tensor, order: Tensor) -> Tensor:
    """Return the tokens that are taken if each in turn is taken unless it is near one taken before.

    A round settles all tokens that depend on settled ones only, in all groups at once. There are few rounds.

    Args:
        near: bool [G, M, M].
        order: int64 [G, M], the tokens in the order in which their turn comes.

    Returns:
        bool [G, M].
    """
    place = order.argsort(dim=1)
    # before[g, i, j]: token j is near token i and comes before it
    before = (near.mT & (place[:, None, :] < place[:, :, None])).float()
    taken = torch.zeros_like(place, dtype=torch.bool)
    open_ = torch.ones_like(taken)
    while bool(open_.any()):
        waits, barred = (before @ torch.stack([open_, taken], dim=-1).float() > 0).unbind(dim=-1)
        taken |= open_ & ~waits & ~barred
        open_ &= waits & ~barred
    return taken


def _rank(order: Tensor, distinct: Tensor) -> Tensor:
    """The rank [G, M] of each token: distinct ones first, by uniqueness, then the others, by uniqueness."""
    later = (~distinct).gather(1, order).to(torch.uint8).argsort(dim=1, stable=True)
    return order.gather(1, later).argsort(dim=1)


def _shares(descriptors: Tensor) -> Tensor:
    """The share of each group in the budget, [G], from the groups' descriptors [G, ·]."""
    unit = normalize(descriptors, dim=-1)
    similarity = (unit @ unit.mT).mean(dim=-1)
    return torch.softmax((similarity.mean() - similarity) * len(unit) ** 0.5, dim=0)


def _sums(member: Tensor, x: Tensor) -> Tensor:
    """The sums [k, D] of the tokens x [M, D] that are members of each of k sets, bool [k, M]."""
    at = member.nonzero()
    if DENSE * len(at) > member.numel():
        return member.to(x.dtype) @ x
    start = torch.searchsorted(at[:, 0].contiguous(), torch.arange(len(member), device=x.device))
    return embedding_bag(at[:, 1].contiguous(), x, start, mode="sum")


def _mean(x: Tensor, first: int, last: int) -> Tensor:
    """The mean [M, D] of the frames first..last of x, in float32 at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x[first].to(dtype) if first == last else x[first : last + 1].to(dtype).mean(dim=0)
