"""FlashVID, its part before the LLM: "FlashVID: Efficient Video Large Language Models via Training-free Tree-based
Spatiotemporal Token Merging", https://arxiv.org/abs/2602.08024, sections 3.2 and 3.3, appendix C.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from vidcom2.budget import equal_budgets, total_budget
from vidcom2.compressor import Compressor, Kept
from vidcom2.features import lengths, require_finite
from vidcom2.kernels.in_slices import by_frames
from vidcom2.methods.holitom import proportional_shares
from vidcom2.pieces.clustering import centres_among, nearest_among, squared_distances
from vidcom2.pieces.cosines import cosines_within_frames
from vidcom2.pieces.sketch import WIDE, sketch
from vidcom2.settings import check_at_least_one, check_choice, check_share
from vidcom2.specs import register

COPIED = 512
"""Tokens in half precision that are converted at once."""


@register("flashvid")
@dataclass(frozen=True)
class FlashVid(Compressor):
    """Per frame, keep salient tokens that differ from each other. Link the others over time to trees, and merge these.

    The video is cut between frames whose mean tokens have a cosine below tau, and where it is lowest until there are
    `segments` segments. Within a segment, and with b tokens per frame:

        salient   ceil(alpha b) tokens of each frame, one after the other: the token j with the highest
                  w_j min_i (1 - cos(x_i, x_j)) over the tokens i that are chosen already; for the first one, over all
                  others. w_j = |x_j| e_j, with the relevance e_j = x_j · mean of the segment.
        trees     each other token is linked to the most similar other token of the frame before, if their cosine is at
                  least `link`. A tree becomes the mean of its tokens, at the place of its root, the earliest.
        thinning  where more trees are left than the budget allows, each frame merges the trees that have their root in
                  it: to the means of clusters around DPC-KNN centres

    Where D is above 256, "mended" takes all cosines and distances of tokens from sketches of 256 channels
    (`pieces.sketch`): of random features with D = 3584, 88 % of the tokens that are kept without sketches are kept
    with them; of a synthetic video whose tokens recur with much noise, 42 %.

    Before the LLM. The whole method also drops tokens inside it, see `flashvid-inside`. The paper weights by the
    attention that a token receives in the vision tower. |x| stands in for it here, as in the adoptions of other methods
    by the authors of VidCom².

    Args:
        form: "mended" keeps round(R·T·M) tokens, but at least one per frame. The frames have equal b, and those of a
            segment share its trees: if there are fewer than the budget asks for, the weakest links are cut; if there
            are more, each frame has clusters in proportion to its trees. A negative e_j counts as 0. For "released",
            see the classmethod `released`.
        alpha: The share of the salient tokens.
        link: The lowest cosine of a link.
        segments: The video has at least so many segments, if it has as many frames. The paper has 8; the authors'
            scripts have 4 for Qwen.
        tau: Cut between frames with a lower cosine.
        neighbours: How many nearest tokens the density of DPC-KNN looks at.
    """

    form: Literal["mended", "released"] = "mended"
    alpha: float = 0.7
    link: float = 0.8
    segments: int = 8
    tau: float = 0.9
    neighbours: int = 7

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "ICLR 2026"
    paper: ClassVar[str] = "https://arxiv.org/abs/2602.08024"
    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    reachable: ClassVar[str] = "any; `released`: up to 1 - 1/M, up to two tokens per frame above R"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "form", ("mended", "released"))
        check_at_least_one(self, "segments", "neighbours")
        check_share(self, "alpha", "link")

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> FlashVid:
        """Build what the authors' code does before the LLM, with its quirks; b = ceil(R·M).

        - The sum of a tree is divided by one more than the links to its root. This is the mean only if the tree spans
          two frames: a token that stands still for n frames becomes n/2 times as long.
        - e_j may be negative, and a token may be chosen again, which wastes the choice: the frame keeps fewer tokens.
          (The authors' code then gives the LLM the same token twice.)
        - In a segment of one frame, salient tokens are clustered as well. A centre may be salient, so that two tokens
          stand at one place; `index` gives the second one a free place next to it.
        - Links need a cosine above `link`. Where they are too many, one fewer is kept than the budget allows.
        - Each frame has the share of its trees, rounded up, so that the video has more tokens than R asks for.
        - The density looks at no more tokens than there are clusters. For one cluster it is 1 everywhere, and the
          authors' noise of 1e-6 on densities chooses the centre. Here there is no noise.
        """
        return cls(retention, **{"form": "released", **settings})

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        if self.retention == 1 or self.form == "released":
            return super().total(frames, m)
        return total_budget(self.retention, frames, m)

    def _budgets(self, frames: int, m: int) -> list[int]:
        """b for each frame."""
        if self.form == "mended":
            return equal_budgets(total_budget(self.retention, frames, m), frames).tolist()
        b = math.ceil(m * self.retention)
        if b >= m:
            raise ValueError(
                f"flashvid.released cannot reach retention={self.retention!r} with M={m}: it keeps ceil(R·M) tokens "
                "per frame, which have to be fewer than M; flashvid (without .released) reaches any"
            )
        return [b] * frames

    def _select(self, x: Tensor) -> Kept:
        frames, m = x.shape[:2]
        mean, length = by_frames(lambda x: (x.mean(dim=1), lengths(x)), x)
        unit = normalize(mean, dim=-1)
        steps = (unit[1:] * unit[:-1]).sum(dim=-1)
        # The first of two host synchronisations. Segments are then decided on the host.
        finite, *near = torch.cat([mean.sum().isfinite()[None].to(steps), steps]).tolist()
        require_finite(bool(finite), x)
        parts = self._segments(near)
        budgets = self._budgets(frames, m)
        counts = [math.ceil(b * self.alpha) for b in budgets]

        centre = torch.cat([mean[part].mean(dim=0, keepdim=True).expand(len(mean[part]), -1) for part in parts])
        (relevance,) = by_frames(lambda x, centre: ((x @ centre[..., None])[..., 0],), x, centre)
        short = sketch(x, WIDE) if self.form == "mended" else x.to(length.dtype)
        short_length = lengths(short).clamp_min_(torch.finfo(short.dtype).tiny)
        relevance = relevance.clamp_min(0) if self.form == "mended" else relevance
        # Dividing by the largest of the frame changes no choice, and keeps the product from overflowing.
        salient = self._salient(short, short_length, _relative(length) * _relative(relevance), counts)
        cosine, before = self._most_similar(short, short_length, salient, parts)
        linked = torch.cat([self._links(cosine[part], sum(budgets[part])) for part in parts])
        forest = Forest.of(linked, before)
        loose = ~linked & ~salient
        alone = set()  # frames whose salient tokens are clustered as well
        if self.form == "released":
            forest.size = 1 + forest.children
            alone = {part.start for part in parts if part.stop - part.start == 1}
            loose[list(alone)] = True
        # The second one: how many trees each frame has, and how many tokens are salient.
        trees, chosen = torch.stack([loose.sum(1), salient.sum(1)]).tolist()
        clusters = self._clusters(trees, [b - a for a, b in zip(counts, budgets, strict=True)], parts)
        sizes = [a + b for a, b in zip(chosen, clusters, strict=True)]

        means = forest.means(short.flatten(0, 1)).view_as(short)
        kept, row = torch.empty(sum(sizes), dtype=torch.int64, device=x.device), torch.full_like(before, sum(sizes))
        twice = []
        for t, here in enumerate(torch.arange(sum(sizes), device=x.device).split(sizes)):
            own, roots = _where(salient[t], chosen[t]), _where(loose[t], trees[t] if clusters[t] else 0)
            where, owner = self._cluster(means[t, roots], clusters[t], x.shape[2])
            place, order = torch.cat([own, roots[where]]).sort(stable=True)
            to = torch.empty_like(here).scatter_(0, order, here)
            kept[here] = place + t * m
            row[t, own] = to[: chosen[t]]
            row[t, roots] = to[chosen[t] :][owner]
            if t in alone and clusters[t]:
                twice.append((own + t * m, to[: chosen[t]]))
        features = forest.merged(x.flatten(0, 1), row.flatten(), ~linked.flatten(), len(kept), twice).to(x.dtype)
        budget = torch.tensor(sizes, device=x.device)
        return Kept(kept if self.form == "mended" else _apart(kept, budget, m), budget, features)

    def _segments(self, near: list[float]) -> list[slice]:
        """The segments, as slices of frames, for the cosines of the mean tokens of neighbouring frames."""
        cuts = {t for t, cosine in enumerate(near) if cosine < self.tau}
        rest = sorted(set(range(len(near))) - cuts, key=near.__getitem__)
        cuts |= set(rest[: max(0, self.segments - 1 - len(cuts))])
        return [slice(a, b) for a, b in pairwise([0, *(t + 1 for t in sorted(cuts)), len(near) + 1])]

    def _salient(self, x: Tensor, length: Tensor, weight: Tensor, counts: list[int]) -> Tensor:
        """bool [T, M]: the salient tokens of each frame, `counts` of them or, if "released", fewer.

        Args:
            x: Sketches [T, M, d].
            length: Their lengths [T, M], positive.
            weight: w, [T, M].
            counts: How many tokens to choose of each frame.
        """
        gap = cosines_within_frames(x, length).neg_().add_(1).clamp_min_(0)
        gap *= weight[:, None, :]  # [T, i, j]
        own = gap.diagonal(dim1=1, dim2=2)
        own.fill_(torch.inf)
        nearest = gap.amin(dim=1)
        own.zero_()
        wanted = torch.tensor(counts, device=x.device)
        salient = torch.zeros_like(nearest, dtype=torch.bool)
        each = torch.arange(len(x), device=x.device)
        for turn in range(max(counts)):
            best = nearest.argmax(dim=1)
            salient[each, best] |= wanted > turn
            nearest = torch.minimum(nearest, gap[each, best]) if turn else gap[each, best]
            if self.form == "mended":
                nearest = nearest.masked_fill(salient, -torch.inf)  # no token is chosen twice
        return salient

    def _most_similar(self, x: Tensor, length: Tensor, salient: Tensor, parts: list[slice]) -> tuple[Tensor, Tensor]:
        """For each token the highest cosine to a token of the frame before, [T, M], and the place of that token.

        Salient tokens, and those of the first frame of a segment, have the cosine -inf. They are nobody's most similar.
        """
        highest = torch.full_like(length, -torch.inf)
        place = torch.zeros_like(length, dtype=torch.int64)
        for part in parts:
            now, before = slice(part.start + 1, part.stop), slice(part.start, part.stop - 1)
            cosine = (x[now] @ x[before].mT).div_(length[now, :, None]).div_(length[before, None, :])
            cosine = cosine.masked_fill_(salient[before, None, :], -torch.inf)
            highest[now], place[now] = cosine.max(dim=-1)
        return highest.masked_fill(salient, -torch.inf), place

    def _links(self, cosine: Tensor, budget: int) -> Tensor:
        """bool [n, M]: the tokens of a segment that are linked to one of the frame before.

        Args:
            cosine: [n, M], from `_most_similar`.
            budget: The tokens that the segment keeps, salient ones included.
        """
        flat = cosine.flatten()
        most = len(flat) - budget  # so many links leave as many tokens as the budget asks for
        if self.form == "mended":
            best = flat.argsort(descending=True, stable=True)[:most]
            linked = torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, best, True) & (flat >= self.link)
        else:
            linked = flat > self.link
            fewer = flat > flat.topk(most).values[-1].clamp_min(1e-6 - 1)
            linked = torch.where(linked.sum() > most, fewer, linked)
        return linked.view_as(cosine)

    def _clusters(self, trees: list[int], wanted: list[int], parts: list[slice]) -> list[int]:
        """How many trees each frame keeps, merged or not, if it has `trees` and its budget for them is `wanted`."""
        found: list[int] = []
        for part in parts:
            own, budget = trees[part], sum(wanted[part])
            if self.form == "mended":
                found += proportional_shares(budget, own) if budget else [0] * len(own)
            else:
                share = min(budget / sum(own), 1) if budget else 0
                found += [math.ceil(n * share) for n in own]
        return found

    def _cluster(self, short: Tensor, keep: int, channels: int) -> tuple[Tensor, Tensor]:
        """Cluster trees: which are the centres, int64 [keep], and the number of each one's cluster, int64 [n].

        Args:
            short: Sketches of the trees, [n, d].
            keep: How many clusters, at most n.
            channels: D.
        """
        if keep == len(short):
            every = torch.arange(keep, device=short.device)
            return every, every
        neighbours = min(self.neighbours, keep) if self.form == "released" else self.neighbours
        if short.shape[1] < channels:  # the density takes distances over sqrt(D)
            short = short * (short.shape[1] / channels) ** 0.5
        squares = squared_distances(short)
        chosen = centres_among(squares, keep, neighbours).sort().values
        return chosen, nearest_among(squares[:, chosen], chosen)


@dataclass
class Forest:
    """Trees of tokens. A tree stands at its root, its earliest token.

    Attributes:
        root: int64 [T·M], the root of each token.
        size: int64 [T·M], the tokens of the tree of each root; what its sum is divided by.
        children: int64 [T·M], how many tokens are linked to each token.
    """

    root: Tensor
    size: Tensor
    children: Tensor

    @classmethod
    def of(cls, linked: Tensor, before: Tensor) -> Forest:
        """Build the trees.

        Args:
            linked: bool [T, M], tokens that are linked to one of the frame before.
            before: int64 [T, M], its place in that frame.
        """
        frames, m = linked.shape
        here = torch.arange(frames * m, device=linked.device).view(frames, m)
        roots = [here[0]]
        for t in range(1, frames):
            roots.append(torch.where(linked[t], roots[-1][before[t]], here[t]))
        root = torch.cat(roots)
        size = torch.zeros_like(root).index_add_(0, root, torch.ones_like(root))
        parent = (here - here % m - m + before).clamp_min(0).flatten()
        children = torch.zeros_like(root).index_add_(0, parent, linked.flatten().long())
        return cls(root, size, children)

    def means(self, x: Tensor) -> Tensor:
        """Return the tree of each root, [T·M, d] for sketches x [T·M, d]; the rows of tokens that are no root are 0."""
        weight = 1 / self.size.clamp_min(1).to(x.dtype)
        return weighted_sums(x, torch.arange(len(x), device=x.device), self.root, weight[self.root], len(x))

    def merged(self, x: Tensor, row: Tensor, is_root: Tensor, rows: int, twice: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return for each row the mean of the trees whose roots go to it, [rows, D], in float32 at least.

        Args:
            x: Tokens [T·M, D].
            row: int64 [T·M], the row of each root, up to `rows`, which stands for none.
            is_root: bool [T·M].
            rows: How many there are.
            twice: Tokens, int64, that are a row of their own besides, and their rows.
        """
        trees = row.new_zeros(rows + 1).index_add_(0, row, is_root.long())
        weight = 1 / (trees[row] * self.size).clamp_min(1).to(torch.promote_types(x.dtype, torch.float32))
        token = torch.cat([torch.arange(len(x), device=x.device), *(token for token, _ in twice)])
        more = weight.new_ones(len(token) - len(x))
        rows_of = torch.cat([row[self.root], *(row for _, row in twice)])
        return weighted_sums(x, token, rows_of, torch.cat([weight[self.root], more]), rows)


def weighted_sums(x: Tensor, token: Tensor, row: Tensor, weight: Tensor, rows: int) -> Tensor:
    """Return the weighted sum of the tokens of each row, [rows, D], in float32 at least.

    Args:
        x: Tokens [n, D].
        token: int64 [k], indices into x.
        row: int64 [k], the row to which each is added, up to `rows`, which stands for none.
        weight: Float [k].
        rows: How many rows.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    row, order = row.sort(stable=True)
    start = torch.searchsorted(row, torch.arange(rows + 1, device=x.device))
    token, weight = token[order], weight[order].to(dtype)
    # The sums of embedding_bag are the same in every run on a GPU, unlike those of index_add_.
    if x.dtype == dtype:
        return embedding_bag(token, x, start, mode="sum", per_sample_weights=weight)[:rows]
    total = x.new_zeros(rows + 1, x.shape[1], dtype=dtype)
    for first in range(0, len(token), COPIED):
        part, some = token[first : first + COPIED], weight[first : first + COPIED]
        begin, here = (start - first).clamp(0, len(part)), torch.arange(len(part), device=x.device)
        total += embedding_bag(here, x[part].to(dtype), begin, mode="sum", per_sample_weights=some)
    return total[:rows]


def _relative(values: Tensor) -> Tensor:
    """Values [T, M] over the largest absolute one of each row."""
    return values / values.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)


def _where(mask: Tensor, count: int) -> Tensor:
    """int64 [count]: where the `count` true values of mask [n] are, without a wait for the device."""
    return (~mask).to(torch.uint8).argsort(stable=True)[:count]


def _apart(index: Tensor, budgets: Tensor, m: int) -> Tensor:
    """Move equal positions to the next free ones of their frames.

    Args:
        index: int64 [N], ascending.
        budgets: int64 [T], how many of them are in each frame, at most m.
        m: Tokens per frame.
    """
    step = torch.arange(len(index), device=index.device)
    behind = budgets.cumsum(0)[index // m] - step  # how many of the frame are still to come, itself included
    return torch.minimum((index - step).cummax(0).values + step, (index // m + 1) * m - behind)
