"""FastVID: "FastVID: Dynamic Density Pruning for Fast Video Large Language Models",
https://arxiv.org/abs/2503.11187, sections 3.2 and 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vidcom2.budget import equal_budgets, total_budget
from vidcom2.compressor import Compressor, Kept
from vidcom2.features import lengths, require_finite
from vidcom2.kernels import kernels_for
from vidcom2.pieces.clustering import centres_among, squared_distances_from
from vidcom2.pieces.merging import group_means
from vidcom2.settings import check_at_least_one, check_choice, check_share
from vidcom2.specs import register

NEIGHBOURS = 4
"""How many nearest tokens the density looks at."""
SHORTEST = 1e-12
"""A shorter centre counts as so long, as in torch's `normalize`."""


@register("fastvid")
@dataclass(frozen=True)
class FastVid(Compressor):
    """Cut the video where its frames change; per segment, keep salient tokens and density peaks of a few key frames.

    With s_t the cosine of the mean tokens of frames t and t+1:

        segments    are cut at the `segments` - 1 smallest s_t, and wherever s_t < tau
        budget      of a segment of n frames: B = n b tokens, with b tokens per frame. C = max(1, int(B · context)) of
                    them are contextual (none if B = 1), the others are salient.
        key frames  of a segment: the last frame of each run of frames with s_t >= static in between
        salient     the tokens with the largest |x|, shared equally among the key frames
        contextual  DPC-KNN centres among the other tokens of the last key frame and of every `stride`-th before it
        merging     each centre c becomes w c + (1 - w) mean of the n tokens that belong to it, with
                    w = max(1/(n+1), centre_weight). A token of the segment belongs to the centre of that frame with
                    the highest cosine, unless it is salient or itself a centre of that frame.

    Before the LLM. The paper ranks by the attention of the vision tower's CLS token. |x| stands in for it here, as in
    the adoption by the authors of VidCom². The published code adds noise of 1e-6 to the density; this does not.

    Args:
        form: "mended" keeps round(R·T·M) tokens, but at least one per frame of the video. All frames of a segment
            contribute equally to its budget. What its key frames cannot hold goes to its most salient other tokens, in
            any of its frames. For "released", see the classmethod `released`.
        segments: The video has at least so many segments, if it has as many frames.
        tau: Cut between frames with a lower s_t.
        static: Frames with at least this s_t in between form one run.
        context: The share of the contextual tokens in a segment's budget.
        stride: Every so many key frames have contextual tokens.
        centre_weight: The lowest weight of a centre in its merged token.
    """

    form: Literal["mended", "released"] = "mended"
    segments: int = 8
    tau: float = 0.84
    static: float = 0.99
    context: float = 0.5
    stride: int = 4
    centre_weight: float = 0.5

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "NeurIPS 2025"
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.11187"
    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    reachable: ClassVar[str] = "any; `released`: multiples of 1/M, rounded down, and far less for still videos"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "form", ("mended", "released"))
        check_at_least_one(self, "segments", "stride")
        check_share(self, "context", "centre_weight")

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> FastVid:
        """Build the adoption by the authors of VidCom²: b = max(1, int(R·M)).

        A key frame has at most M // 2 contextual tokens and M in all. What the key frames of a segment cannot hold is
        lost, so a still video keeps far less than R.
        """
        return cls(retention, **{"form": "released", **settings})

    def _select(self, x: Tensor) -> Kept:
        frames, m = x.shape[:2]
        importance = lengths(x)
        mean = x.mean(dim=1, dtype=importance.dtype)
        unit = normalize(mean, dim=-1)
        similarity = (unit[1:] * unit[:-1]).sum(dim=-1)
        # One host synchronisation. Segments and key frames are then decided on the host.
        finite, *steps = torch.cat([mean.sum().isfinite()[None].to(similarity), similarity]).tolist()
        require_finite(bool(finite), x)

        if self.form == "released":
            per_frame = [min(max(int(m * self.retention), 1), m)] * frames
        else:
            per_frame = equal_budgets(total_budget(self.retention, frames, m), frames).tolist()
        kept, merged = torch.zeros(frames * m, dtype=torch.bool, device=x.device), []
        cuts = set(sorted(range(frames - 1), key=steps.__getitem__)[: self.segments - 1])
        cuts |= {t for t in range(frames - 1) if steps[t] < self.tau}
        for first, last in _runs(0, frames - 1, cuts):
            keys = [end - first for _, end in _runs(first, last, {t for t in range(last) if steps[t] < self.static})]
            kept[first * m : (last + 1) * m], of_segment = self._segment(
                x[first : last + 1], importance[first : last + 1], keys, sum(per_frame[first : last + 1])
            )
            merged += [(place + first * m, tokens) for place, tokens in of_segment]
        index = kept.nonzero().flatten()
        features = x.flatten(0, 1).index_select(0, index)
        for places, tokens in merged:
            features.index_copy_(0, torch.searchsorted(index, places), tokens.to(x.dtype))
        return Kept(index, kept.view(frames, m).sum(dim=1), features)

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`."""
        if self.retention == 1 or self.form == "released":
            return super().total(frames, m)
        return total_budget(self.retention, frames, m)

    def _plan(self, keys: int, m: int, budget: int) -> list[tuple[int, int]]:
        """How many (salient, contextual) tokens each key frame keeps."""
        contextual = max(1, int(budget * self.context)) if budget > 1 else 0
        salient = _split(budget - contextual, keys)
        slots = _split(contextual, -(-keys // self.stride))
        plan = [(salient[i], slots[i // self.stride] if i % self.stride == 0 else 0) for i in range(keys)]
        context = [c for _, c in plan][::-1]  # so that the last key frame is always one of them
        return list(zip(salient, context, strict=True))

    def _segment(
        self, x: Tensor, importance: Tensor, keys: list[int], budget: int
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """One segment x [n, M, D].

        Returns:
            Which of its tokens are kept, bool [n·M]; and per key frame with contextual tokens, where their centres are,
            int64 [C], and what they become, [C, D].
        """
        frames, m, channels = x.shape
        kernels = kernels_for(x)
        kept = torch.zeros(frames * m, dtype=torch.bool, device=x.device)
        order = importance.argsort(dim=1, descending=True, stable=True)
        chosen, spill = [], budget
        for frame, (salient, contextual) in zip(keys, self._plan(len(keys), m, budget), strict=True):
            if frames > 1:
                contextual = min(contextual, m // 2)
                salient = min(salient, m - contextual)
            kept[frame * m + order[frame, :salient]] = True
            spill -= salient + contextual
            if contextual:
                rest = order[frame, salient:].sort().values
                dots = kernels.products_within_frames(x[frame : frame + 1])[0]
                squares = squared_distances_from(dots.index_select(0, rest).index_select(1, rest), channels)
                found = rest[centres_among(squares, contextual, NEIGHBOURS)]
                chosen.append((frame, found, dots[:, found] if frames == 1 else None))
        dropped = ~kept
        for frame, found, _ in chosen:
            kept[frame * m + found] = True
        if spill and self.form == "mended":
            best = importance.flatten().masked_fill(kept, -torch.inf).argsort(descending=True, stable=True)[:spill]
            kept[best], dropped[best] = True, False
        merged = []
        for frame, found, dots in chosen:
            rows, places = x[frame].index_select(0, found).to(importance.dtype), frame * m + found
            if dots is None:
                dots = kernels.products_with_rows(x, rows).flatten(0, 1)
            likeness = dots / importance[frame, found].clamp_min(SHORTEST)  # a token's own length changes no choice
            joins = dropped.index_fill(0, places, False)
            merged.append((places, self._merge(x.flatten(0, 1), rows, likeness, joins)))
        return kept, merged

    def _merge(self, tokens: Tensor, rows: Tensor, likeness: Tensor, joins: Tensor) -> Tensor:
        """What centres become when tokens join them, [C, D].

        Args:
            tokens: [n, D].
            rows: The centres [C, D].
            likeness: How like each centre each token is, [n, C].
            joins: Which tokens join a centre, bool [n].
        """
        owner = likeness.argmax(dim=-1).masked_fill(~joins, len(rows))
        means, members = group_means(tokens, owner, len(rows))
        weight = (1 / (members[:, None] + 1)).clamp_min(self.centre_weight)  # 1 where nothing belongs to the centre
        return weight * rows + (1 - weight) * means


def _runs(first: int, last: int, cuts: set[int]) -> list[tuple[int, int]]:
    """The frames first..last, cut after each frame in `cuts`: (first, last) of each run."""
    ends = [*sorted(t for t in cuts if first <= t < last), last]
    return list(zip([first, *(end + 1 for end in ends[:-1])], ends, strict=True))


def _split(total: int, parts: int) -> list[int]:
    """`total` in equal parts; the first part also gets what is left over."""
    return [total // parts + (total % parts if i == 0 else 0) for i in range(parts)]
